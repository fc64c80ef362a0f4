"""Streams at their limits: long, repetitive, runaway or senseless input."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import VOCAB, assert_same, cloned, random_ids, read, tiny
from torch import Tensor

from hope_runtime.errors import DivergedStateError, InvalidRequestError
from hope_runtime.layers.tree import named_tensors
from hope_runtime.models.hope.config import PRESETS
from hope_runtime.models.hope.model import forward
from hope_runtime.models.hope.state import fresh_state
from hope_runtime.models.hope.stream import observe
from hope_runtime.models.hope.weights import HopeWeights

LEARNERS = ["hope", "hope_attention"]


def test_a_text_shorter_than_a_chunk_fills_the_buffer_only() -> None:
    """Invariant 26. Fails when a partial chunk is learnt, or dropped."""
    config, weights = tiny("hope", periods=(8,))
    ids = random_ids(2, 7)
    _, state = read(config, weights, ids, [7])
    assert state.levels[0].theta is None
    assert state.segment is not None
    assert torch.equal(state.segment.ids_BN[:, :7], ids)
    assert state.segment.length_B.tolist() == [7, 7]


@pytest.mark.parametrize("name", PRESETS)
def test_a_state_does_not_grow_with_the_stream(name: str) -> None:
    """Invariant 27, with attention's window bounded. Fails when anything is kept a token."""
    config, weights = tiny(name)
    ids = random_ids(1, 160)
    sizes = []
    for length in (48, 96, 160):
        _, state = read(config, weights, ids[:, :length], [length])
        sizes.append(state.nbytes)
    assert sizes[0] == sizes[1] == sizes[2]


@pytest.mark.parametrize("name", LEARNERS)
def test_one_token_repeated_for_long_leaves_a_bounded_memory(name: str) -> None:
    """Invariant 28. Fails when writes of one key add up."""
    config, weights = tiny(name, rate=1e-3)
    ids = torch.full((1, 1000), 7)
    scores, state = read(config, weights, ids, [1000])
    assert scores.isfinite().all()
    for key, tensor in named_tensors(state):
        assert tensor.isfinite().all(), key
        if tensor.is_floating_point() and tensor.numel():
            assert float(tensor.abs().max()) < 100, key


def test_a_runaway_is_an_error_that_names_its_row_and_changes_nothing() -> None:
    """Invariant 28 where no rule bounds it: a rate far too large. Fails when it is silent."""
    config, weights = tiny("hope", rate=1e6)
    ids = random_ids(2, 30)
    state = fresh_state(config, weights, 2)
    kept = cloned(state)
    learn = torch.tensor([[False] * 30, [True] * 30])
    with pytest.raises(DivergedStateError, match="row 1") as caught:
        observe(config, weights, ids, state, learn_BT=learn)
    assert caught.value.rows == (1,)
    assert_same(state, kept)


def huge(weights: HopeWeights, value: float) -> HopeWeights:
    embedding = weights.embedding.clone()
    embedding[3] = value
    return replace(weights, embedding=embedding)


@pytest.mark.parametrize("value", [1e30, float("inf"), float("nan")])
def test_huge_inputs_leave_a_bounded_memory_or_an_error(value: float) -> None:
    """Fails when one token poisons a session without a word."""
    config, weights = tiny("hope")
    state = fresh_state(config, weights, 1)
    try:
        _, state = observe(config, huge(weights, value), torch.full((1, 9), 3), state)
    except DivergedStateError:
        assert value != 1e30
        return
    for _, tensor in named_tensors(
        state.context.layers[0].fast and state.context.layers[0].fast.banks
    ):
        assert tensor.isfinite().all()


@pytest.mark.parametrize(
    "ids",
    [torch.tensor([[VOCAB]]), torch.tensor([[-1]]), torch.zeros(1, 0, dtype=torch.int64)],
)
def test_ids_that_make_no_sense_are_refused(ids: Tensor) -> None:
    config, weights = tiny("hope")
    with pytest.raises(InvalidRequestError):
        observe(config, weights, ids, fresh_state(config, weights, 1))


def test_positions_far_beyond_the_window_still_read_alike() -> None:
    """A stream has no last position: attention of turned keys depends on distances alone. Fails
    when angles are computed in float32, or come from a table that ends."""
    config, weights = tiny("hope_attention", rate=0.0)
    ids = random_ids(1, 30)
    _, near = read(config, weights, ids[:, :1], [1])
    fresh = fresh_state(config, weights, 1)
    far = replace(fresh, context=replace(fresh.context, position_B=torch.tensor([10_000_000])))
    expected, _ = forward(config, weights, ids)
    scores, _ = forward(config, weights, ids, far.context)
    torch.testing.assert_close(scores, expected, rtol=1e-6, atol=1e-6)
    assert near.context.position_B.tolist() == [1]
