"""Tiny native models for tests: every preset, in float64, with periods that a few tokens pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hope_runtime.layers.tree import map_tensors, named_tensors
from hope_runtime.models.hope.config import HopeConfig, preset
from hope_runtime.models.hope.model import Context
from hope_runtime.models.hope.state import HopeState, fresh_state
from hope_runtime.models.hope.stream import observe
from hope_runtime.models.hope.weights import HopeWeights, init_weights

VOCAB = 40
TIGHT = {"rtol": 1e-9, "atol": 1e-9}


def tiny(
    name: str = "hope",
    *,
    periods: tuple[int, ...] = (4, 8, 16),
    rate: float = 0.05,
    window: int = 12,
    fast: dict[str, Any] | None = None,
    layers: int = 2,
    **overrides: Any,
) -> tuple[HopeConfig, HopeWeights]:
    """A model of width 16 with two heads, and random weights that make every part matter."""
    if name in ("hope", "titans"):
        fast = {"chunk_mem": 5, "chunk_other": 3} | (fast or {})
    config = preset(
        name,
        vocab_size=VOCAB,
        d_model=16,
        n_layers=layers,
        n_heads=2,
        d_ff=36,
        periods=periods,
        learning_rate=rate,
        window=window,
        fast=fast,
    )
    config = replace(config, **overrides)
    return config, shaken(init_weights(config, seed=0)).to(torch.float64)


def shaken(weights: HopeWeights) -> HopeWeights:
    """The same weights with noise on all that begins as zeros or ones."""
    generator = torch.Generator().manual_seed(1)
    noisy = {
        id(tensor): tensor + 0.2 * torch.randn(tensor.shape, generator=generator)
        for _, tensor in weights.named()
    }
    return weights.map(lambda tensor: noisy[id(tensor)])


def random_ids(rows: int, tokens: int, seed: int = 0) -> Tensor:
    return torch.randint(0, VOCAB, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def read(
    config: HopeConfig, weights: HopeWeights, ids: Tensor, cuts: list[int], **options: Any
) -> tuple[Tensor, HopeState]:
    """Observes `ids` in pieces of the given lengths from a fresh state."""
    state = fresh_state(config, weights, len(ids))
    parts = []
    for piece in ids.split(cuts, dim=1):
        scores, state = observe(config, weights, piece, state, **options)
        parts.append(scores)
    return torch.cat(parts, dim=1), state


def assert_same(one: object, other: object, **tolerance: float) -> None:
    """Trees of the same shape with the same numbers; bit for bit without a tolerance.

    What lies in a window before a row's first token means nothing, and is not compared here.
    """
    left, right = dict(named_tensors(one)), dict(named_tensors(other))
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        torch.testing.assert_close(
            tensor, right[name], **(tolerance or {"rtol": 0, "atol": 0}), msg=f"{name} differs"
        )


def settled(config: HopeConfig, state: HopeState) -> HopeState:
    """The state with windows in one form: how they lie in memory depends on the cut."""
    segment = state.segment
    return replace(
        state,
        context=_settled(config, state.context),
        segment=segment and replace(segment, start=_settled(config, segment.start)),
    )


def _settled(config: HopeConfig, context: Context) -> Context:
    read = min(int(context.position_B.max()), config.window - 1)
    layers = tuple(
        replace(layer, window=layer.window and layer.window.settled(read))
        for layer in context.layers
    )
    return replace(context, layers=layers)


def cloned(state: HopeState) -> HopeState:
    return map_tensors(Tensor.clone, state)
