"""Folding a run of rank-one writes at once gives what the token-by-token recurrence gives."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from hope_runtime.layers.delta_rule import (
    Inertia,
    Writes,
    decays,
    fold,
    fold_with_momentum,
    read_run,
)

CLOSE = {"rtol": 1e-11, "atol": 1e-11}


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@dataclass
class Tokens:
    """What T tokens do to a memory, before their decays are multiplied up."""

    key: Tensor
    value: Tensor
    erase: Tensor | None
    log_keep: Tensor

    def of(self, part: slice = slice(None)) -> Writes:
        erase = None if self.erase is None else self.erase[..., part, :]
        decay = decays(self.log_keep[..., part])
        return Writes(self.key[..., part, :], self.value[..., part, :], erase, decay)


def random_run(T: int, *, erases: bool) -> tuple[Tensor, Tokens]:
    """A memory (2, 3, V=5, K=4) and T tokens that keep between nothing and everything."""
    torch.manual_seed(T)
    log_keep = torch.rand(2, 3, T, dtype=torch.float64).log()
    erase = random(2, 3, T, 4) if erases else None
    return random(2, 3, 5, 4), Tokens(random(2, 3, T, 4), random(2, 3, T, 5), erase, log_keep)


def recurrence(
    memory: Tensor,
    writes: Tokens,
    query: Tensor,
    *,
    velocity: Tensor | None = None,
    momentum: float = 0.0,
    counts: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Memory and velocity after the run, and reads before and after each token's write."""
    speed = torch.zeros_like(memory) if velocity is None else velocity
    before, after = [], []
    for t in range(writes.key.shape[-2]):
        key, value = writes.key[..., t, :], writes.value[..., t, :]
        before.append(memory @ query[..., t, :, None])
        outer = value[..., :, None] * key[..., None, :]
        erased = torch.zeros_like(memory)
        if writes.erase is not None:
            erased = (memory @ writes.erase[..., t, :, None]) * key[..., None, :]
        counted = torch.ones(()) if counts is None else counts[..., t, None, None]
        speed = torch.where(counted > 0, momentum * speed + outer, speed)
        memory = writes.log_keep[..., t, None, None].exp() * memory - erased + counted * speed
        after.append(memory @ query[..., t, :, None])
    reads = (torch.stack(x, dim=-3)[..., 0] for x in (before, after))
    return memory, speed, *reads


@pytest.mark.parametrize("T", [1, 2, 7, 64])
@pytest.mark.parametrize("erases", [True, False])
def test_a_run_folded_at_once_equals_the_recurrence(T: int, erases: bool) -> None:
    """Invariant 7. Fails when the solve uses the decay after a token for that before it, or misses
    a token's effect on later erases."""
    memory, writes = random_run(T, erases=erases)
    query = random(2, 3, T, 4)
    ended, _, before, after = recurrence(memory, writes, query)
    folded, added = fold(memory, writes.of())
    torch.testing.assert_close(folded, ended, **CLOSE)
    read = read_run(memory, writes.of(), added, query, after=False)
    torch.testing.assert_close(read, before, **CLOSE)
    read = read_run(memory, writes.of(), added, query, after=True)
    torch.testing.assert_close(read, after, **CLOSE)


@pytest.mark.parametrize("erases", [True, False])
def test_a_run_with_momentum_equals_the_recurrence(erases: bool) -> None:
    """Invariant 7, with the velocity. Fails when a token that must not count moves the velocity, or
    adds it once more."""
    memory, writes = random_run(9, erases=erases)
    velocity = random(2, 3, 5, 4)
    counts = torch.ones(2, 1, 9, dtype=torch.float64)
    counts[0, :, 3] = counts[1, :, 7:] = 0
    key, value = writes.key, writes.value * counts[..., None]
    erase = None if writes.erase is None else writes.erase * counts[..., None]
    writes = Tokens(key, value, erase, writes.log_keep * counts)
    expected = recurrence(memory, writes, key, velocity=velocity, momentum=0.8, counts=counts)
    log_momentum = counts * torch.log(torch.tensor(0.8, dtype=torch.float64))
    run = writes.of()
    inertia = Inertia.of(run.decay, log_momentum, counts)
    ended, speed = fold_with_momentum(memory, velocity, run, inertia)
    torch.testing.assert_close(ended, expected[0], **CLOSE)
    torch.testing.assert_close(speed, expected[1], **CLOSE)


@pytest.mark.parametrize("cut", [1, 4, 8])
def test_a_run_may_be_cut_anywhere(cut: int) -> None:
    """Invariant 20 for one memory. Fails when a fold depends on where a run begins."""
    memory, writes = random_run(9, erases=True)
    whole, _ = fold(memory, writes.of())
    for part in (slice(0, cut), slice(cut, None)):
        memory, _ = fold(memory, writes.of(part))
    torch.testing.assert_close(memory, whole, **CLOSE)


def test_a_token_that_does_nothing_leaves_every_bit() -> None:
    """Invariant 3 (eta 0, alpha 1) and 24. Fails when a factor of one is computed with rounding."""
    memory = torch.randn(1, 1, 5, 4)
    nothing = Tokens(
        torch.randn(1, 1, 6, 4),
        torch.zeros(1, 1, 6, 5),
        torch.zeros(1, 1, 6, 4),
        torch.zeros(1, 1, 6),
    ).of()
    assert torch.equal(fold(memory, nothing)[0], memory)
    silent = torch.zeros(1, 1, 6)
    inertia = Inertia.of(nothing.decay, silent, silent)
    after, velocity = fold_with_momentum(memory, 2 * memory, nothing, inertia)
    assert torch.equal(after, memory)
    assert torch.equal(velocity, 2 * memory)


def test_keeping_only_scales() -> None:
    """Invariant 3: eta 0 gives alpha M. Fails when the keep fractions are not multiplied up."""
    memory, writes = random_run(5, erases=False)
    kept = Tokens(writes.key, torch.zeros_like(writes.value), None, writes.log_keep).of()
    total = writes.log_keep.sum(-1).exp()[..., None, None]
    torch.testing.assert_close(fold(memory, kept)[0], total * memory, **CLOSE)


def test_decays_of_a_long_run_that_forgets_all_stay_finite() -> None:
    """Ratios as exponentials of differences. Fails (0 / 0) when they are quotients of
    products."""
    log_keep = torch.full((1, 1, 400), -5.0)
    decay = decays(log_keep.requires_grad_())
    assert decay.isfinite().all()
    assert decay[0, 0, 399, 400] == 1
    assert float(decay[0, 0, 399, 399].detach()) == pytest.approx(math.exp(-5))
    decay.sum().backward()
    assert log_keep.grad is not None
    assert log_keep.grad.isfinite().all()
