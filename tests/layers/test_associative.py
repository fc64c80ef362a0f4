"""The rules of the fast memories: what a write does, and that its gradient is the gradient."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

from hope_runtime.layers.associative import LinearBank, Parameters, ResidualBank, Step
from hope_runtime.layers.config import Rule
from hope_runtime.layers.delta_rule import Writes, decays, fold

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
K, F = 6, 5
ALL_RULES: list[Rule] = ["delta", "paper_literal", "gd", "hebbian"]


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def unit_key(T: int = 1) -> Tensor:
    return nnf.normalize(random(1, 1, T, K), dim=-1)


def step(rule: Rule, eta: float = 1.0, alpha: float = 1.0, T: int = 1) -> Step:
    ones = torch.ones(1, 1, T, dtype=torch.float64)
    return Step(rule, eta * ones, decays(math.log(alpha) * ones))


def written(bank: LinearBank | ResidualBank, state: Parameters, *args: object) -> Parameters:
    writes = bank.writes(state, *args)  # type: ignore[arg-type]
    return tuple(fold(memory, of)[0] for memory, of in zip(state, writes, strict=True))


def gradient_of(write: Writes) -> Tensor:
    """The dense inner gradient of one token's write with eta 1: minus w kᵀ."""
    return -write.value.mT @ write.key


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("rule", ALL_RULES)
def test_the_gradient_of_a_linear_memory_is_its_objective_s(rule: Rule) -> None:
    """Invariant 4, by autograd, for 1/2 |M k - v|² and -<M k, v>. Fails at a sign or a factor 2."""
    matrix = random(1, 1, K, K).requires_grad_()
    key, target = unit_key(), random(1, 1, 1, K)
    out = key @ matrix.mT
    l2 = rule in ("gd", "paper_literal")
    loss = 0.5 * (out - target).square().sum() if l2 else -(out * target).sum()
    (expected,) = torch.autograd.grad(loss, matrix)
    (write,) = LinearBank().writes((matrix.detach(),), key, target, step(rule))
    torch.testing.assert_close(gradient_of(write), expected, **CLOSE)


@pytest.mark.parametrize("rule", ["delta", "paper_literal", "gd"])
@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("layers", [True, False])
def test_the_gradient_of_a_deep_memory_is_its_objective_s(
    rule: Rule, skip: bool, layers: bool
) -> None:
    """Invariant 4, by autograd, for both matrices of two memories of a bank that read one key.
    Where the delta rule erases at the output layer, that layer's objective is the inner product
    with what the skip leaves over. Fails at a wrong slope, transpose or residual."""
    outputs = K if skip else 1
    bank = ResidualBank(memories=2, skip=skip, erase_layers=layers)
    inner, outer = random(1, 1, 2 * F, K), random(1, 1, 2, outputs, F)
    inner.requires_grad_(), outer.requires_grad_()
    key, target = unit_key(), random(1, 1, 1, 2 * outputs)
    loss_l2, loss_dot = torch.zeros(()), torch.zeros(())
    for n in range(2):
        hidden = nnf.silu(key[0, 0] @ inner[0, 0, n * F : (n + 1) * F].T)
        fast_memory = hidden @ outer[0, 0, n].T
        wanted = target[0, 0, :, n * outputs : (n + 1) * outputs]
        loss_l2 = loss_l2 + 0.5 * (fast_memory + (key[0, 0] if skip else 0) - wanted).square().sum()
        loss_dot = loss_dot - (fast_memory * (wanted - (key[0, 0] if skip else 0))).sum()
    grad_inner, grad_outer = torch.autograd.grad(loss_l2, (inner, outer), retain_graph=True)
    state = (inner.detach(), outer.detach())
    of_inner, of_outer = bank.writes(state, key, target, step(rule))
    torch.testing.assert_close(gradient_of(of_inner), grad_inner, **CLOSE)
    erased_there = layers and rule != "gd"
    if erased_there and rule == "delta":
        (grad_outer,) = torch.autograd.grad(loss_dot, outer)
    # The proximal step of the output layer, eta / (1 + eta |h|²), is a factor of its gradient.
    square = of_outer.key.square().sum(-1)[..., None]
    factor = torch.ones_like(square) if rule == "gd" else 1 / (1 + square)
    torch.testing.assert_close(gradient_of(of_outer), factor * grad_outer, **CLOSE)


@pytest.mark.parametrize("bank", [LinearBank(), ResidualBank(1, True, True)])
def test_the_delta_rule_writes_exactly(bank: LinearBank | ResidualBank) -> None:
    """Invariant 1: eta = alpha = 1, |k| = 1. Linear: M k = v, and an orthogonal key reads as
    before. Deep: the erase of the output layer leaves no trace of the old value. Fails under the
    literal rule, whose value is half."""
    key, target = unit_key(), random(1, 1, 1, K)
    if isinstance(bank, LinearBank):
        state: Parameters = (random(1, 1, K, K),)
        after = written(bank, state, key, target, step("delta"))
        torch.testing.assert_close(bank.read(after, key), target, **CLOSE)
        other = unit_key()
        other = other - (other * key).sum(-1, keepdim=True) * key
        torch.testing.assert_close(bank.read(after, other), bank.read(state, other), **CLOSE)
        return
    inner, outer = random(1, 1, F, K), random(1, 1, 1, K, F)
    _, of_outer = bank.writes((inner, outer), key, target, step("delta"))
    hidden = of_outer.key
    erased = fold(outer, of_outer)[0]
    strength = (of_outer.erase * hidden).sum() if of_outer.erase is not None else torch.zeros(())
    # Without its last layer moving, M(k) - k would go from W1 h the share eta' |h|² to v - k.
    expected = (1 - strength) * (hidden @ outer.mT) + strength * (target - key)[:, :, None]
    torch.testing.assert_close(hidden @ erased.mT, expected, **CLOSE)


@pytest.mark.parametrize("alpha", [1.0, 0.9])
@pytest.mark.parametrize("eta", [0.3, 0.8])
def test_the_literal_rule_erases_twice(alpha: float, eta: float) -> None:
    """Invariant 2: M_t k = (alpha - 2 eta) M k + eta v, with its fixed point. Fails under delta."""
    bank, state = LinearBank(), (random(1, 1, K, K),)
    key, target = unit_key(), random(1, 1, 1, K)
    args = (key, target, step("paper_literal", eta, alpha))
    after = written(bank, state, *args)
    expected = (alpha - 2 * eta) * bank.read(state, key) + eta * target
    torch.testing.assert_close(bank.read(after, key), expected, **CLOSE)
    for _ in range(200):
        after = written(bank, after, *args)
    fixed = eta / (1 - alpha + 2 * eta) * target
    torch.testing.assert_close(bank.read(after, key), fixed, **CLOSE)


@pytest.mark.parametrize("rule", ALL_RULES)
def test_eta_nought_writes_nothing(rule: Rule) -> None:
    """Invariant 3: eta 0, alpha 1 is bit-identical. Fails when eta is left out of a factor."""
    key, target = unit_key(), random(1, 1, 1, K)
    state: Parameters = (random(1, 1, K, K),)
    assert torch.equal(written(LinearBank(), state, key, target, step(rule, eta=0.0))[0], state[0])
    if rule == "hebbian":
        return
    deep = (random(1, 1, F, K), random(1, 1, 1, K, F))
    after = written(ResidualBank(1, True, True), deep, key, target, step(rule, eta=0.0))
    assert all(torch.equal(old, new) for old, new in zip(deep, after, strict=True))


def test_the_proximal_step_is_stationary() -> None:
    """Invariant 4: W <- W (I - eta' h hᵀ) - eta' g hᵀ with eta' = eta / (1 + eta |h|²) minimises
    1/2 |W h + g|² + |W - W_t|² / (2 eta), g = dL/d(W h). Fails with eta for eta'."""
    eta = 0.7
    bank = ResidualBank(memories=1, skip=False, erase_layers=True)
    state = (random(1, 1, F, K), random(1, 1, 1, K, F))
    key, target = unit_key(), random(1, 1, 1, K)
    _, of_outer = bank.writes(state, key, target, step("paper_literal", eta))
    (before, after) = state[1], fold(state[1], of_outer)[0]
    hidden = of_outer.key
    pull = hidden @ before.mT - target[:, :, None]
    variable = after.clone().requires_grad_()
    prox = 0.5 * (hidden @ variable.mT + pull).square().sum()
    prox = prox + (variable - before).square().sum() / (2 * eta)
    (slope,) = torch.autograd.grad(prox, variable)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-10)


def test_a_self_generated_linear_write_is_a_right_multiplication() -> None:
    """Invariant 5: M (alpha I - eta k kᵀ - eta (k - v) kᵀ) under the literal rule, so a memory of
    zeros stays zeros. Fails when the target is read at another memory."""
    eta, alpha = 0.6, 0.95
    bank, memory = LinearBank(), random(1, 1, 3 * K, K)
    key, value = unit_key(), unit_key()
    made = step("paper_literal", eta, alpha)
    (after,) = written(bank, (memory,), key, bank.read((memory,), value), made)
    outer = key.mT @ key
    factor = alpha * torch.eye(K, dtype=torch.float64) - eta * outer - eta * (key - value).mT @ key
    torch.testing.assert_close(after, memory @ factor, **CLOSE)
    zero = torch.zeros_like(memory)
    assert torch.equal(written(bank, (zero,), key, bank.read((zero,), value), made)[0], zero)


@pytest.mark.parametrize("rule", ["delta", "paper_literal", "gd"])
@pytest.mark.parametrize("own_target", [True, False])
def test_gradients_at_the_running_memory_are_the_recurrence(
    rule: Literal["delta", "paper_literal", "gd"], own_target: bool
) -> None:
    """Invariant 7: the per-token form in one pass equals single tokens with a snapshot each. Fails
    when a rule's erase and its gradient's erase are not added up."""
    bank, T = LinearBank(), 7
    key, value = unit_key(T), unit_key(T)
    made = step(rule, 0.6, 0.9, T)
    memory = random(1, 1, K, K)
    at_once, _ = fold(
        memory, bank.writes_per_token(key, None if own_target else value, value, made)
    )
    for t in range(T):
        target = value[:, :, t : t + 1]
        if own_target:
            target = bank.read((memory,), target)
        (memory,) = written(bank, (memory,), key[:, :, t : t + 1], target, step(rule, 0.6, 0.9))
    torch.testing.assert_close(at_once, memory, **CLOSE)


def test_a_deep_memory_without_its_output_layer_is_the_identity() -> None:
    """Invariant 6: W1 = 0 reads z, so v̂ = v; the first write moves W1 and leaves W2's gradient
    zero. Fails without the skip."""
    bank = ResidualBank(memories=2, skip=True, erase_layers=False)
    state = (random(1, 1, 2 * F, K), torch.zeros(1, 1, 2, K, F, dtype=torch.float64))
    z, key = random(1, 1, 3, K), unit_key()
    assert torch.equal(bank.read(state, z), torch.cat((z, z), dim=-1))
    of_inner, of_outer = bank.writes(state, key, bank.read(state, unit_key()), step("gd"))
    assert not of_inner.value.any()
    assert of_outer.value.abs().min() > 0


@pytest.mark.parametrize("eta", [0.5, 1.0, 1.9])
def test_repeated_writes_stay_bounded_where_the_rule_contracts(eta: float) -> None:
    """Invariant 28: |alpha - eta| < 1 under delta, |alpha - 2 eta| < 1 under the literal rule.
    Fails when the delta rule erases twice (eta 1.9 then diverges)."""
    key, value = unit_key(2000), random(1, 1, 2000, K)
    key[:, :, 1::2] = key[:, :, :1]
    bank, memory = LinearBank(), random(1, 1, K, K)
    after = written(bank, (memory,), key, value, step("delta", eta, 0.95, 2000))[0]
    assert after.isfinite().all()
    assert float(after.norm()) < 100
    if eta < 0.97:
        literal = written(bank, (memory,), key, value, step("paper_literal", eta, 0.95, 2000))[0]
        assert literal.isfinite().all()
