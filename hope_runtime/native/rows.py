"""Rows of a context: take some out of a batch, and put them back; how batches of sessions are made.

Counters live on the CPU, everything else on the model's device. Windows of different length are
aligned at their newest token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as nnf
from torch import Tensor

from hope_runtime.native.model import Context, KeysValues, LayerContext
from hope_runtime.native.tree import map_tensors

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


def align(contexts: Sequence[Context]) -> list[Context]:
    """The same contexts with windows of one length, the longest's: rows of zeros in front."""
    most = max((_span(context) for context in contexts), default=0)
    return [_widened(context, most) for context in contexts]


def _span(context: Context) -> int:
    window = context.layers[0].window
    return 0 if window is None else window.k.shape[2]


def _widened(context: Context, tokens: int) -> Context:
    missing = tokens - _span(context)
    if not missing:
        return context

    def pad(keys_BGSK: Tensor) -> Tensor:
        return nnf.pad(keys_BGSK, (0, 0, missing, 0))

    layers = tuple(
        layer
        if layer.window is None
        else LayerContext(KeysValues(pad(layer.window.k), pad(layer.window.v)), layer.fast)
        for layer in context.layers
    )
    return Context(context.position_B, context.written_B, layers)
