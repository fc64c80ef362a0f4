"""Sessions that read and learn: whatever the cut, the batch, the padding or the break."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TIGHT, assert_same, random_ids, read, settled, tiny
from torch import Tensor

from hope_runtime.errors import DivergedStateError
from hope_runtime.layers.cms import LevelState
from hope_runtime.layers.tree import map_tensors, named_tensors, with_tensors
from hope_runtime.models.hope.config import PRESETS, HopeConfig
from hope_runtime.models.hope.model import forward
from hope_runtime.models.hope.rows import align, join_rows, take_rows
from hope_runtime.models.hope.state import HopeState, fresh_state
from hope_runtime.models.hope.stream import observe
from hope_runtime.models.hope.weights import HopeWeights

Model = tuple[HopeConfig, HopeWeights]
LEARNERS = ["hope", "hope_attention"]


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("cuts", [[1] * 37, [7, 1, 1, 11, 17], [4, 4, 4, 25], [36, 1]])
def test_any_cut_of_a_stream_gives_the_same_outputs_and_state(name: str, cuts: list[int]) -> None:
    """Invariant 20, 21: keys and values of older weights stay as they are. Fails when a counter, a
    buffer, the conv tail or the window is not carried."""
    config, weights = tiny(name)
    ids = random_ids(2, 37)
    whole, at_once = read(config, weights, ids, [37])
    scores, state = read(config, weights, ids, cuts)
    assert_same(scores, whole, **TIGHT)
    assert_same(settled(config, state), settled(config, at_once), **TIGHT)


@pytest.mark.parametrize("window", [65, 70, 100, 300])
def test_single_tokens_in_a_long_window_read_as_one_piece(window: int) -> None:
    """Invariant 20, 27 for windows with a tail. Fails when a key that left is still seen, or the
    tail is put together in the wrong order."""
    config, weights = tiny("hope_attention", window=window, rate=0.01)
    ids = random_ids(2, 210)
    whole, at_once = read(config, weights, ids, [210])
    scores, state = read(config, weights, ids, [5, *[1] * 205])
    assert_same(scores, whole, **TIGHT)
    assert_same(settled(config, state), settled(config, at_once), **TIGHT)
    held = state.context.layers[0].window
    assert held is not None
    assert held.tokens <= window + 63


@pytest.mark.parametrize("name", LEARNERS)
def test_a_cut_makes_no_difference_in_float32(name: str) -> None:
    """Invariant 20 in the precision that is served, to 1e-5 relative to the scores' size. Fails
    when the forms of a write round differently enough to grow."""
    config, weights = tiny(name, rate=0.01)
    single = weights.to(torch.float32)
    ids = random_ids(1, 96)
    whole, at_once = read(config, single, ids, [96])
    scores, state = read(config, single, ids, [1] * 96)
    torch.testing.assert_close(scores, whole, rtol=1e-5, atol=1e-5 * float(whole.abs().max()))
    assert_same(state.levels, at_once.levels, rtol=1e-5, atol=1e-5)


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[int], list[list[bool]], list[list[bool]], int]:
    """Cuts of 25 tokens of two rows, which of them exist, and which are learnable."""
    cuts = []
    while sum(cuts) < 25:
        cuts.append(draw(st.integers(1, 25 - sum(cuts))))
    flags = st.lists(st.lists(st.booleans(), min_size=25, max_size=25), min_size=2, max_size=2)
    return cuts, draw(flags), draw(flags), draw(st.sampled_from([0, 2, 3]))


@settings(max_examples=25)
@given(streams(), st.sampled_from(LEARNERS))
def test_masks_cuts_and_context_change_nothing_but_themselves(
    stream: tuple[list[int], list[list[bool]], list[list[bool]], int], name: str
) -> None:
    """Invariant 20, 22, 24: rows in a batch, in pieces, with tokens that do not exist in between
    and context that is not learnt, equal each row alone, in one piece, without the masked tokens.
    Fails when padding is counted, or one row's boundary is taken for all."""
    cuts, exists, learns, segment = stream
    config, weights = tiny(name, segment_tokens=segment)
    ids = random_ids(2, 25)
    mask, learn = torch.tensor(exists), torch.tensor(learns)
    state, parts, at = fresh_state(config, weights, 2), [], 0
    for size in cuts:
        piece = slice(at, at + size)
        scores, state = observe(
            config, weights, ids[:, piece], state, mask_BT=mask[:, piece], learn_BT=learn[:, piece]
        )
        parts.append(scores)
        at += size
    together = torch.cat(parts, dim=1)
    assert not together[~mask].any()
    for row in range(2):
        if not mask[row].any():
            continue
        mine = ids[row : row + 1, mask[row]]
        scores, alone = read(
            config, weights, mine, [mine.shape[1]], learn_BT=learn[row : row + 1, mask[row]]
        )
        assert_same(together[row, mask[row]], scores[0], **TIGHT)
        assert_same_row(config, weights, state, row, alone)


def assert_same_row(
    config: HopeConfig, weights: HopeWeights, state: HopeState, row: int, alone: HopeState
) -> None:
    """One row of a batch against a session of its own, up to how absent things are written."""
    mine = take_rows(state, [row])
    assert int(mine.observed_B) == int(alone.observed_B)
    assert mine.segment is not None
    assert alone.segment is not None
    for ours, theirs in ((mine.context, alone.context), (mine.segment.start, alone.segment.start)):
        ours, theirs = align([ours, theirs])
        assert torch.equal(ours.position_B, theirs.position_B)
        assert torch.equal(ours.written_B, theirs.written_B)
        known = int(ours.position_B)
        for one, other in zip(ours.layers, theirs.layers, strict=True):
            assert_same(one.fast, other.fast, **TIGHT)
            if one.window is not None:
                assert other.window is not None
                S = one.window.k.shape[2]
                seen = slice(max(S - known, 0), S)
                assert_same(one.window.k[:, :, seen], other.window.k[:, :, seen], **TIGHT)
                assert_same(one.window.v[:, :, seen], other.window.v[:, :, seen], **TIGHT)
    assert_same(mine.segment.ids_BN, alone.segment.ids_BN)
    assert_same(mine.segment.learnable_BN, alone.segment.learnable_BN)
    for index, (one, other) in enumerate(zip(mine.levels, alone.levels, strict=True)):
        assert torch.equal(one.updates_B, other.updates_B)
        initial = weights.theta(config, index)
        assert_same(dense(one, initial), dense(other, initial), **TIGHT)


def dense(level: LevelState, initial: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], ...]:
    """Weights and gathered gradients with absent ones filled in."""
    theta = level.theta or tuple(t[None] for t in initial)
    return theta, level.gathered or tuple(torch.zeros_like(t) for t in theta)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_neighbour_of_nan_changes_no_bit(name: str) -> None:
    """Invariant 22. Fails wherever rows are mixed by a product instead of a choice."""
    config, weights = tiny(name)
    ids = random_ids(2, 20)
    _, state = read(config, weights, ids[:, :6], [6])
    sick = poisoned(state, row=1)
    with pytest.raises(DivergedStateError) as caught:
        observe(config, weights, ids[:, 6:], sick)
    assert caught.value.rows == (1,)
    scores, _ = forward(
        config, weights, ids[:, 6:], sick.context, thetas=sick.thetas, write_BT=None
    )
    well, _ = forward(config, weights, ids[:, 6:], state.context, thetas=state.thetas)
    assert torch.equal(scores[0], well[0])
    assert scores[1].isnan().any()


@pytest.mark.parametrize("in_step", [True, False])
@pytest.mark.parametrize("name", LEARNERS)
def test_a_neighbour_of_nan_changes_nothing_that_is_learnt(
    name: str, in_step: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 22 through the backward pass and the update, at boundaries of both rows and of one.
    Fails when gradients of rows are summed, or a mask is a factor."""
    monkeypatch.setattr("hope_runtime.models.hope.stream.check_bounds", lambda *_: None)
    config, weights = tiny(name)
    ids = random_ids(2, 20)
    _, state = read(config, weights, ids[:, :6], [6])
    learn = torch.ones(2, 14, dtype=torch.bool)
    learn[1, :3] = in_step
    _, sick = observe(config, weights, ids[:, 6:], poisoned(state, row=1), learn_BT=learn)
    _, well = observe(config, weights, ids[:, 6:], state, learn_BT=learn)
    assert_same(take_rows(sick, [0]), take_rows(well, [0]))


def poisoned(state: HopeState, row: int) -> HopeState:
    def poison(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        tensor = tensor.clone()
        tensor[row] = float("nan")
        return tensor

    return map_tensors(poison, state)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_state_that_was_stored_goes_on_as_if_it_had_not(name: str) -> None:
    """Invariant 23: every number of a state is in its named tensors, and nothing that is read
    changes one in place, so a snapshot stays what it was. Fails when a state holds anything
    else."""
    config, weights = tiny(name)
    ids = random_ids(2, 30)
    before = {key: tensor.clone() for key, tensor in weights.named()}
    _, middle = read(config, weights, ids[:, :13], [13])
    stored = {key: tensor.clone() for key, tensor in named_tensors(middle)}
    expected, end = observe(config, weights, ids[:, 13:], middle)
    restored = with_tensors(middle, {key: tensor.clone() for key, tensor in stored.items()})
    again, same = observe(config, weights, ids[:, 13:], restored)
    assert torch.equal(again, expected)
    assert_same(same, end)
    for key, tensor in named_tensors(middle):
        assert torch.equal(tensor, stored[key]), key
    for key, tensor in weights.named():
        assert torch.equal(tensor, before[key]), key
    fresh = fresh_state(config, weights, 2)
    assert_same(
        read(config, weights, ids[:, :5], [5])[0], observe(config, weights, ids[:, :5], fresh)[0]
    )


@pytest.mark.parametrize("tokens", [39, 40, 42])
@pytest.mark.parametrize("name", LEARNERS)
def test_with_learning_off_the_context_advances_and_the_memory_does_not(
    name: str, tokens: int
) -> None:
    """Invariant 25, whether a segment ends with the text or not. Fails when a token that is only
    read is counted, written or trained on."""
    config, weights = tiny(name)
    ids = random_ids(2, tokens)
    _, state = read(config, weights, ids[:, :7], [7])
    scores, after = observe(config, weights, ids[:, 7:], state, learn_BT=False)
    expected, _ = forward(
        config,
        weights,
        ids[:, 7:],
        state.context,
        thetas=state.thetas,
        write_BT=torch.zeros(2, tokens - 7, dtype=torch.bool),
    )
    torch.testing.assert_close(scores, expected, **TIGHT)
    assert torch.equal(after.observed_B, state.observed_B)
    assert torch.equal(after.context.written_B, state.context.written_B)
    assert after.context.position_B.tolist() == [tokens, tokens]
    for old, new in zip(state.levels, after.levels, strict=True):
        assert_same(old.theta, new.theta)
        assert torch.equal(old.updates_B, new.updates_B)
    for old, new in zip(state.context.layers, after.context.layers, strict=True):
        if old.fast is not None:
            assert new.fast is not None
            assert_same(old.fast.banks, new.fast.banks)


@pytest.mark.parametrize("name", LEARNERS)
def test_sessions_join_and_part(name: str) -> None:
    """How a server makes a batch: rows of two sessions of one shape side by side give what each
    gives alone. Fails when joining reorders rows."""
    config, weights = tiny(name)
    ids = random_ids(2, 24)
    states, expected = [], []
    for row in range(2):
        _, state = read(config, weights, ids[row : row + 1, :16], [16])
        states.append(state)
        expected.append(observe(config, weights, ids[row : row + 1, 16:], state)[0])
    scores, _ = observe(config, weights, ids[:, 16:], join_rows(states))
    torch.testing.assert_close(scores, torch.cat(expected), **TIGHT)


def test_reading_leaves_no_graph_behind() -> None:
    """Weights that are being trained may be served: a state holds numbers only. Fails when a
    session keeps the activations of its whole past."""
    config, weights = tiny("hope")
    trained = weights.map(lambda tensor: tensor.requires_grad_())
    scores, state = read(config, trained, random_ids(1, 20), [3, 17])
    assert not scores.requires_grad
    for key, tensor in named_tensors(state):
        assert not tensor.requires_grad, key
