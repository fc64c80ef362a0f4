"""Deep momentum: hand-written inner gradients, and the optimisers that it contains."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hope_runtime.optim.deep_momentum import DeepMomentum
from hope_runtime.optim.momentum import DeltaMomentum, Momentum
from hope_runtime.optim.muon import Muon
from hope_runtime.optim.rule import UpdateRule

SHAPES = [(4, 3), (3, 5), (6, 1)]
FEATURES = ["identity", "unit", "cubic"]


def tensors(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def run(rule: UpdateRule, shape: tuple[int, ...], rate: float, steps: int = 8) -> Tensor:
    parameters = {"w": tensors(shape)[0]}
    state = rule.init(parameters)
    for step in range(steps):
        (gradient,) = tensors(shape, seed=step + 1)
        parameters, state = rule.update(state, {"w": gradient}, parameters, rate)
    return parameters["w"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("objective", ["dot", "l2"])
@pytest.mark.parametrize("hidden", [0, 7])
def test_the_inner_gradients_are_those_of_autograd(
    shape: tuple[int, int], feature: Any, objective: Any, hidden: int
) -> None:
    rule = DeepMomentum(hidden=hidden, feature=feature, objective=objective, inner_rate=0.3)
    (gradient,) = tensors(shape)
    slots = {
        name: torch.randn(slot.shape, dtype=torch.float64).requires_grad_(name != "start")
        for name, slot in rule.start(gradient).items()
    }
    learnt = [slots[name] for name in slots if name != "start"]
    # Column j is m of row j, whose value is -e_j.
    read = rule.read(slots, gradient)
    if objective == "dot":
        loss = read.diagonal().sum()
    else:
        loss = (read + torch.eye(shape[0], dtype=torch.float64)).square().sum() / 2
    expected = torch.autograd.grad(loss, learnt)
    if objective == "l2":
        keys = rule.features(gradient)
        if hidden:
            keys = torch.tanh(keys @ (slots["start"] + slots["inner"]).mT) / hidden**0.5
        expected = tuple(each / (1 + 0.3 * keys.square().sum()) for each in expected)
    found = rule.inner_gradients({name: slot.detach() for name, slot in slots.items()}, gradient)
    assert len(found) == len(learnt)
    for name, each in zip(found, expected, strict=True):
        close(found[name], each)


@pytest.mark.parametrize("shape", [*SHAPES, (5,), (), (2, 3, 2)])
@pytest.mark.parametrize("polynomial", ["cubic", "quintic"])
def test_30_a_linear_memory_read_through_newton_schulz_is_muon(
    shape: tuple[int, ...], polynomial: Any
) -> None:
    options = {"newton_schulz_steps": 9, "polynomial": polynomial}
    deep = DeepMomentum(keep=0.8, hidden=0, output="newton_schulz", **options)
    muon = Muon(beta=0.8, nesterov=False, scale="none", **options)
    close(run(deep, shape, 0.1), run(muon, shape, 0.1))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_linear_memory_is_momentum_or_delta_momentum(shape: tuple[int, int]) -> None:
    close(run(DeepMomentum(keep=0.8, hidden=0), shape, 0.1), run(Momentum(0.8), shape, 0.1))
    deep = DeepMomentum(keep=0.8, hidden=0, objective="l2")
    close(run(deep, shape, 0.1), run(DeltaMomentum(0.8), shape, 0.1))


@pytest.mark.parametrize("feature", FEATURES)
def test_the_memory_is_odd_and_starts_empty(feature: Any) -> None:
    rule = DeepMomentum(hidden=16, feature=feature)
    (gradient,) = tensors((4, 3))
    zero = {"w": torch.zeros(4, 3, dtype=torch.float64)}
    start = rule.init(zero)
    there, state = rule.update(start, {"w": gradient}, zero, 0.1)
    back, _ = rule.update(start, {"w": -gradient}, zero, 0.1)
    close(there["w"], -back["w"])
    still, _ = rule.update(start, zero, zero, 0.1)
    assert not bool(still["w"].any())
    # It writes against the gradient.
    assert float((there["w"] * gradient).sum()) < 0
    # Forgetting leads back to the start, not to a memory without keys.
    for _ in range(400):
        _, state = rule.update(state, zero, zero, 0.1)
    assert float(state["w.outer"].abs().max()) < 1e-12
    assert float(state["w.inner"].abs().max()) < 1e-12
    assert torch.equal(state["w.start"], start["w.start"])


@pytest.mark.parametrize("objective", ["dot", "l2"])
@pytest.mark.parametrize("output", ["identity", "newton_schulz"])
def test_it_descends(objective: Any, output: Any) -> None:
    """Least squares in a matrix; the loss falls by far more than rounding."""
    inputs, target, weight = tensors((40, 5), (40, 4), (4, 5))
    target = inputs @ weight.mT + 0.01 * target
    parameters = {"w": torch.zeros(4, 5, dtype=torch.float64)}
    rule = DeepMomentum(keep=0.5, objective=objective, output=output)
    state = rule.init(parameters)
    losses = []
    for _ in range(300):
        leaf = parameters["w"].clone().requires_grad_()
        loss = (inputs @ leaf.mT - target).square().mean()
        (gradient,) = torch.autograd.grad(loss, leaf)
        losses.append(float(loss.detach()))
        parameters, state = rule.update(state, {"w": gradient}, parameters, 0.05)
    assert losses[-1] < 0.05 * losses[0]
