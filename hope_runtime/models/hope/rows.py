"""Rows of a context: take some out of a batch, and put them back; how batches of sessions are made.

Counters live on the CPU, everything else on the model's device. Windows of different length are
aligned at their newest token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch

from hope_runtime.layers.tree import map_tensors
from hope_runtime.models.hope.model import Context, LayerContext

T = TypeVar("T")


def take_rows(tree: T, rows: Sequence[int]) -> T:
    """The given rows, in the given order, of every tensor of a tree; each has its rows first."""
    index = torch.tensor(list(rows), dtype=torch.int64)
    return map_tensors(lambda tensor: tensor.index_select(0, index.to(tensor.device)), tree)


def put_rows(tree: T, rows: Sequence[int], new: T) -> T:
    """`tree` with its given rows replaced by those of `new`; nothing is changed in place."""
    index = torch.tensor(list(rows), dtype=torch.int64)
    return map_tensors(lambda old, part: old.index_copy(0, index.to(old.device), part), tree, new)


def join_rows(trees: Sequence[T]) -> T:
    """One tree with the rows of all, in order."""
    return map_tensors(lambda *parts: torch.cat(parts), *trees)


def align(contexts: Sequence[Context], limit: int | None = None) -> list[Context]:
    """The same contexts with windows of one form: no tails, and the longest's length, but of at
    most the `limit` newest tokens."""
    windows = [context.layers[0].window for context in contexts]
    most = max((window.tokens for window in windows if window is not None), default=0)
    most = most if limit is None else min(most, limit)
    return [_settled(context, most) for context in contexts]


def _settled(context: Context, tokens: int) -> Context:
    layers = tuple(
        layer if layer.window is None else LayerContext(layer.window.settled(tokens), layer.fast)
        for layer in context.layers
    )
    return Context(context.position_B, context.written_B, layers)
