"""Levels change by Eq. 71: when, by how much, and what a change is made of."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as nnf
from tiny import TIGHT, assert_same, random_ids, read, tiny
from torch import Tensor

from hope_runtime.layers.cms import chain
from hope_runtime.models.decoder.forward import forward as base_forward
from hope_runtime.models.decoder.forward import logits as base_logits
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.hope.config import HopeConfig, HopeLevel
from hope_runtime.models.hope.model import Context, forward
from hope_runtime.models.hope.stacking import stack_levels
from hope_runtime.models.hope.state import HopeState, fresh_state
from hope_runtime.models.hope.stream import flush, observe
from hope_runtime.models.hope.weights import HopeWeights, init_weights


def thetas_of(
    config: HopeConfig, weights: HopeWeights, state: HopeState, level: int
) -> tuple[Tensor, ...]:
    """The rows' weights of a level, theta_0 where none has learnt."""
    theta = state.levels[level].theta
    if theta is not None:
        return theta
    return tuple(t.expand(state.rows, *t.shape) for t in weights.theta(config, level))


def loss_gradients(
    config: HopeConfig,
    weights: HopeWeights,
    inputs: Tensor,
    targets: Tensor,
    context: Context | None,
    thetas: list[tuple[Tensor, ...]],
) -> list[tuple[Tensor, ...]]:
    """The summed next-token loss's gradients of one stretch, one plain autograd call."""
    leaves = [tuple(t.detach().requires_grad_() for t in theta) for theta in thetas]
    scores, _ = forward(config, weights, inputs, context, thetas=tuple(leaves))
    loss = nnf.cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction="sum")
    flat = torch.autograd.grad(loss, [t for theta in leaves for t in theta])
    parts = iter(flat)
    return [tuple(next(parts) for _ in theta) for theta in leaves]


@pytest.mark.parametrize("name", ["hope", "hope_attention"])
def test_a_level_changes_at_multiples_of_its_period_and_nowhere_else(name: str) -> None:
    """Invariant 13, 26: bit-constant between boundaries, floor(N / C) updates, none before the
    first. Fails when a level moves early, or when counts of two levels are mixed."""
    config, weights = tiny(name)
    ids, state = random_ids(1, 37), fresh_state(*tiny(name), 1)
    for t in range(37):
        before = state
        _, state = observe(config, weights, ids[:, t : t + 1], state)
        for index, level in enumerate(config.levels):
            old = thetas_of(config, weights, before, index)
            new = thetas_of(config, weights, state, index)
            same = all(torch.equal(a, b) for a, b in zip(old, new, strict=True))
            assert same == bool((t + 1) % level.period_tokens), (t, index)
            assert int(state.levels[index].updates_B) == (t + 1) // level.period_tokens


@pytest.mark.parametrize("name", ["hope", "hope_attention"])
def test_the_change_is_the_summed_gradient_of_the_chunk(name: str) -> None:
    """Invariant 14: -eta times the gradient of the summed loss of the chunk's tokens, at the
    weights before it; the first token has no prediction. Fails for a mean, or with a target too
    many."""
    config, weights = tiny(name, periods=(6,), rate=0.02)
    ids = random_ids(2, 13)
    _, state = read(config, weights, ids[:, :6], [6])
    initial = [weights.theta(config, 0)]
    expanded = [tuple(t.expand(2, *t.shape) for t in initial[0])]
    (gradient,) = loss_gradients(config, weights, ids[:, :5], ids[:, 1:6], None, expanded)
    first = [tuple(t - 0.02 * g for t, g in zip(expanded[0], gradient, strict=True))]
    assert_same(state.levels[0].theta, first[0], **TIGHT)
    # The second chunk: six predictions, from the sixth token on, under the changed weights.
    _, context = forward(config, weights, ids[:, :5])
    (gradient,) = loss_gradients(config, weights, ids[:, 5:11], ids[:, 6:12], context, first)
    second = tuple(t - 0.02 * g for t, g in zip(first[0], gradient, strict=True))
    _, state = read(config, weights, ids, [13])
    assert_same(state.levels[0].theta, second, **TIGHT)


def test_twice_the_text_moves_a_level_twice_as_far() -> None:
    """Invariant 14: a sum, not a mean. On a model without memory of what came before, one token
    repeated has one gradient, so 2n predictions move theta twice as far as n. Fails for a mean."""
    config, weights = tiny("transformer", attention=False)
    repeated = torch.full((1, 17), 3)
    moved = []
    for period in (9, 17):
        levels = (HopeLevel(period, config.levels[0].d_ff, 0.1),)
        longer = replace(config, levels=levels)
        _, state = read(longer, weights, repeated[:, :period], [period])
        (theta,) = (level.theta for level in state.levels)
        assert theta is not None
        moved.append(theta[0][0] - weights.theta(config, 0)[0])
    torch.testing.assert_close(moved[1], 2 * moved[0], **TIGHT)


def test_a_slow_level_gathers_over_fast_states_that_differ() -> None:
    """Invariant 19: its gradient is summed sub-chunk by sub-chunk, each under the fast weights of
    its time. Fails when it is taken at one frozen snapshot; the test makes sure that differs."""
    config, weights = tiny("hope", periods=(4, 8), rate=0.1)
    ids = random_ids(1, 8)
    _, state = read(config, weights, ids, [8])
    start = [thetas_of(config, weights, fresh_state(config, weights, 1), i) for i in (0, 1)]
    early = loss_gradients(config, weights, ids[:, :3], ids[:, 1:4], None, start)
    moved = tuple(t - 0.1 * g for t, g in zip(start[0], early[0], strict=True))
    _, context = forward(config, weights, ids[:, :3], thetas=tuple(start))
    late = loss_gradients(config, weights, ids[:, 3:7], ids[:, 4:8], context, [moved, start[1]])
    frozen = loss_gradients(config, weights, ids[:, 3:7], ids[:, 4:8], context, start)
    expected = tuple(t - 0.1 * (a + b) for t, a, b in zip(start[1], early[1], late[1], strict=True))
    assert_same(state.levels[1].theta, expected, **TIGHT)
    assert (late[1][0] - frozen[1][0]).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["hope", "hope_attention"])
def test_rates_of_nought_give_the_model_as_it_was_trained(name: str) -> None:
    """Invariant 15, bit for bit in the weights. Fails when reading in segments changes the
    function."""
    config, weights = tiny(name, rate=0.0, window=64)
    ids = random_ids(2, 37)
    scores, state = read(config, weights, ids, [37])
    torch.testing.assert_close(scores, forward(config, weights, ids)[0], **TIGHT)
    for index in range(3):
        for old, new in zip(
            weights.theta(config, index), thetas_of(config, weights, state, index), strict=True
        ):
            assert torch.equal(old.expand_as(new), new)


def test_a_level_that_never_changes_is_a_plain_mlp() -> None:
    """Invariant 16: frequency 0. Fails when a static level is gathered for or updated."""
    config, weights = tiny("transformer", window=64)
    ids = random_ids(2, 20)
    scores, state = read(config, weights, ids, [20])
    assert state.segment is None
    assert state.levels[0].theta is None
    torch.testing.assert_close(scores, forward(config, weights, ids)[0], **TIGHT)
    block = weights.blocks[0].levels[0]
    x = torch.randn(2, 3, 16, dtype=torch.float64)
    normed = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * block.norm
    gate, up = (normed @ block.gate_up.T).chunk(2, dim=-1)
    expected = x + (nnf.silu(gate) * up) @ block.down.T
    torch.testing.assert_close(chain(x, [block], [None], "sequential", None, 1e-5), expected)
    # Beside one that learns, too.
    config, weights = tiny("hope", periods=(4, 0))
    _, state = read(config, weights, random_ids(2, 20), [20])
    learnt, still = state.levels
    assert learnt.theta is not None
    assert still.theta is None
    assert still.gathered is None
    assert still.updates_B.tolist() == [0, 0]


def test_a_nested_level_begins_again_when_its_context_ends() -> None:
    """Invariant 17: at the slower neighbour's boundary it equals theta_0; the slowest goes on.
    Fails when only the sequential rule is applied."""
    config, weights = tiny("hope", periods=(4, 12), variant="nested")
    ids, state = random_ids(2, 28), fresh_state(*tiny("hope", periods=(4, 12)), 2)
    for t in range(28):
        _, state = observe(config, weights, ids[:, t : t + 1], state)
        assert (state.levels[0].theta is None) == ((t + 1) % 12 < 4)
    assert state.levels[1].theta is not None
    assert state.levels[0].updates_B.tolist() == [7, 7]
    _, at_once = read(config, weights, ids, [28])
    assert_same(at_once, state, **TIGHT)


def test_rows_of_a_nested_level_begin_again_on_their_own() -> None:
    """Invariant 17, 22. Fails when one row's boundary resets another's level."""
    config, weights = tiny("hope", periods=(4, 8), variant="nested")
    ids = random_ids(2, 9)
    late = torch.tensor([[True] * 9, [True] * 7 + [False] * 2])
    _, state = read(config, weights, ids, [9], learn_BT=late)
    theta, initial = state.levels[0].theta, weights.theta(config, 0)
    assert theta is not None
    assert torch.equal(theta[0][0], initial[0])
    assert not torch.equal(theta[0][1], initial[0])


def test_independent_levels_may_be_permuted() -> None:
    """Invariant 18, Eq. 74. Fails when one level reads what another adds."""
    config, weights = tiny("hope", variant="independent")
    weights = init_weights(config, 0).to(torch.float64)
    block = weights.blocks[0]
    mix = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    x = torch.randn(2, 3, 16, dtype=torch.float64)
    levels = block.levels
    y = chain(x, levels, [None] * 3, "independent", mix, 1e-5)
    order = [2, 0, 1]
    permuted = chain(x, [levels[i] for i in order], [None] * 3, "independent", mix[order], 1e-5)
    torch.testing.assert_close(permuted, y, **TIGHT)
    in_turn = chain(x, levels, [None] * 3, "sequential", None, 1e-5)
    assert (in_turn - y).abs().max() > 1e-3
    _, state = read(config, weights, random_ids(1, 9), [9])
    assert state.levels[0].theta is not None


def test_an_optimiser_s_own_memory_is_carried_and_masked_by_rows() -> None:
    """Eq. 71 with another f. Fails when f's state is lost between boundaries, or moves in a row
    that was not due."""

    class Momentum:
        def init(self, parameter: Tensor) -> tuple[Tensor, ...]:
            return (torch.zeros_like(parameter),)

        def step(
            self, gradient: Tensor, state: tuple[Tensor, ...]
        ) -> tuple[Tensor, tuple[Tensor, ...]]:
            (old,) = state
            new = 0.5 * old + gradient
            return new, (new,)

    config, weights = tiny("hope", periods=(4,), rate=0.05)
    ids = random_ids(2, 9)
    counted = torch.tensor([[True] * 9, [True] * 6 + [False] * 3])
    _, state = read(config, weights, ids, [9], learn_BT=counted, rule=Momentum())
    _, plain = read(config, weights, ids[:, :4], [4])
    theta, once = state.levels[0].theta, plain.levels[0].theta
    assert theta is not None
    assert once is not None
    torch.testing.assert_close(theta[0][1], once[0][1], **TIGHT)
    (velocity,) = state.levels[0].optimiser[0]
    initial = weights.theta(config, 0)[0]
    torch.testing.assert_close(velocity[1], (initial - once[0][1]) / 0.05, rtol=1e-7, atol=1e-7)
    moved = once[0][0] - theta[0][0]
    torch.testing.assert_close(moved, 0.05 * velocity[0], rtol=1e-7, atol=1e-7)


def test_a_flush_learns_what_is_gathered_and_nothing_else_does() -> None:
    """Section 3.3: no partial flush unless asked. Fails when a flush leaves the gradient to be
    applied once more, or reads the last token twice."""
    config, weights = tiny("hope", periods=(8, 16), rate=0.05)
    ids = random_ids(2, 5)
    _, state = read(config, weights, ids, [5])
    assert state.levels[0].theta is None
    flushed = flush(config, weights, state)
    start = [thetas_of(config, weights, state, i) for i in (0, 1)]
    gradients = loss_gradients(config, weights, ids[:, :4], ids[:, 1:], None, start)
    for index, (theta, gradient) in enumerate(zip(start, gradients, strict=True)):
        expected = tuple(t - 0.05 * g for t, g in zip(theta, gradient, strict=True))
        assert_same(flushed.levels[index].theta, expected, **TIGHT)
        assert flushed.levels[index].gathered is None
    assert flushed.context.position_B.tolist() == [5, 5]
    assert flushed.observed_B.tolist() == [5, 5]
    again = flush(config, weights, flushed)
    assert_same(again.levels[0].theta, flushed.levels[0].theta, **TIGHT)
    _, after = observe(config, weights, random_ids(2, 3, seed=4), flushed)
    assert after.levels[0].updates_B.tolist() == [2, 2]


def test_stacked_levels_of_a_pretrained_model(tiny_model: BaseModel) -> None:
    """Invariant 15, section 7.3: rates of nought reproduce the pretrained model, and a rate above
    moves the levels of their own layers only. Fails when a level reads another layer's MLP."""
    config, weights = stack_levels(tiny_model, [(4, 0.0), (8, 0.0)], [0, 1])
    ids = torch.randint(2, 258, (2, 21), generator=torch.Generator().manual_seed(0))
    expected = base_logits(tiny_model, base_forward(tiny_model, ids))
    scores, _ = read(config, weights, ids, [3, 18])
    torch.testing.assert_close(scores, expected, **TIGHT)
    config, weights = stack_levels(tiny_model, [(4, 0.05), (0, 0.0)], [1, 0])
    scores, state = read(config, weights, ids, [21])
    theta = state.levels[0].theta
    assert theta is not None
    assert len(theta) == 2
    assert not torch.equal(theta[0][0], weights.blocks[1].levels[0].gate_up)
    assert state.levels[1].theta is None
    torch.testing.assert_close(scores[:, :3], expected[:, :3], **TIGHT)
    assert (scores[:, 4:] - expected[:, 4:]).abs().max() > 1e-4
