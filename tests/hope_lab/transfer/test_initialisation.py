"""Learning where another level starts: exact gradients, and starts from which one step suffices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hope_lab.transfer.initialisation import adapt, initialisation_gradients
from hope_lab.transfer.level import Parameters
from hope_runtime.errors import GradientError
from hope_runtime.optim.adam import Adam
from hope_runtime.optim.gradient_descent import GradientDescent
from hope_runtime.optim.registry import make_rule

TASKS = 3


def tensors(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def network(p: Parameters, x: Tensor) -> Tensor:
    """(tasks, N, 1) of x (tasks, N, D)."""
    hidden = torch.tanh(x @ p["in"].mT + p["bias"][..., None, :])
    return hidden @ p["out"].mT


def start() -> dict[str, Tensor]:
    first, bias, out = tensors((5, 2), (5,), (1, 5))
    return {"in": first, "bias": bias, "out": out}


def losses(seed: int) -> Any:
    x, y = tensors((TASKS, 6, 2), (TASKS, 6, 1), seed=seed)
    return lambda p: (network(p, x) - y).square().mean((-2, -1))


def test_the_second_order_gradient_is_autograds_through_the_written_out_steps() -> None:
    support, query, rate = losses(1), losses(2), 0.3
    leaves = {name: tensor.requires_grad_() for name, tensor in start().items()}
    total = torch.zeros((), dtype=torch.float64)
    for task in range(TASKS):
        weights: dict[str, Tensor] = dict(leaves)
        for _ in range(2):
            batch = {name: tensor[None] for name, tensor in weights.items()}
            loss = support({n: t.expand(TASKS, *t.shape[1:]) for n, t in batch.items()})[task]
            slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            weights = {
                name: tensor - rate * slope
                for (name, tensor), slope in zip(weights.items(), slopes, strict=True)
            }
        batch = {name: tensor.expand(TASKS, *tensor.shape) for name, tensor in weights.items()}
        total = total + query(batch)[task] / TASKS
    expected = torch.autograd.grad(total, list(leaves.values()))
    value, found = initialisation_gradients(
        start(), support, query, GradientDescent(), rate, tasks=TASKS, steps=2
    )
    assert value == pytest.approx(float(total.detach()), abs=1e-12)
    for each, other in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(each, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("rule", ["gd", "momentum", "delta_momentum", "dmgd", "adam", "muon", "m3"])
def test_the_second_order_gradient_is_the_slope_of_the_adapted_loss(rule: str) -> None:
    """By central differences, through each rule's own memory."""
    support, query, made = losses(1), losses(2), make_rule(rule)
    options: dict[str, Any] = {"tasks": TASKS, "steps": 2}
    _, found = initialisation_gradients(start(), support, query, made, 0.02, **options)
    direction = dict(
        zip(start(), tensors(*(t.shape for t in start().values()), seed=9), strict=True)
    )

    def after(size: float) -> float:
        moved = {name: tensor + size * direction[name] for name, tensor in start().items()}
        return float(query(adapt(moved, support, made, 0.02, **options)).mean())

    slope = sum(float((found[name] * direction[name]).sum()) for name in found)
    assert slope == pytest.approx((after(1e-5) - after(-1e-5)) / 2e-5, rel=1e-5)


def test_the_first_order_gradient_is_the_adapted_ones() -> None:
    support, query = losses(1), losses(2)
    adapted = adapt(start(), support, GradientDescent(), 0.3, tasks=TASKS)
    leaves = {name: tensor.requires_grad_() for name, tensor in adapted.items()}
    expected = torch.autograd.grad(query(leaves).mean(), list(leaves.values()))
    options: dict[str, Any] = {"rule": GradientDescent(), "learning_rate": 0.3, "tasks": TASKS}
    _, first = initialisation_gradients(start(), support, query, second_order=False, **options)
    _, second = initialisation_gradients(start(), support, query, **options)
    for name, each in zip(first, expected, strict=True):
        torch.testing.assert_close(first[name], each.sum(0), rtol=0, atol=1e-12)
        assert not torch.allclose(first[name], second[name], rtol=1e-3)


def test_a_start_that_gives_no_finite_gradient_is_refused() -> None:
    def endless(p: Parameters) -> Tensor:
        return losses(1)(p) / 0

    with pytest.raises(GradientError):
        initialisation_gradients(start(), endless, losses(2), GradientDescent(), 0.1, tasks=TASKS)


def waves(seed: int, tasks: int) -> tuple[Any, Any]:
    """Losses over 10 shots each, of sines of any phase: their mean is zero everywhere."""
    generator = torch.Generator().manual_seed(seed)
    phase = 6.2832 * torch.rand(tasks, 1, 1, generator=generator)
    found = []
    for _ in range(2):
        x = 10 * torch.rand(tasks, 10, 1, generator=generator) - 5
        y = torch.sin(x + phase)

        def loss(p: Parameters, x: Tensor = x, y: Tensor = y) -> Tensor:
            hidden = torch.tanh(x @ p["in"].mT + p["bias"][..., None, :])
            hidden = torch.tanh(hidden @ p["mid"].mT + p["bias2"][..., None, :])
            return (hidden @ p["out"].mT - y).square().mean((-2, -1))

        found.append(loss)
    return found[0], found[1]


def trained(order: str, steps: int = 250) -> float:
    """Loss on 200 unseen tasks after one step, from a start that was trained as `order` says."""
    generator = torch.Generator().manual_seed(0)
    parameters = {
        "in": torch.randn(32, 1, generator=generator),
        "bias": torch.randn(32, generator=generator),
        "mid": torch.randn(32, 32, generator=generator) / 32**0.5,
        "bias2": torch.zeros(32),
        "out": torch.randn(1, 32, generator=generator) / 32**0.5,
    }
    inner, outer = GradientDescent(), Adam()
    state = outer.init(parameters)
    for step in range(steps):
        support, query = waves(step, tasks=16)
        _, gradients = initialisation_gradients(
            parameters,
            support,
            query,
            inner,
            # The mean solution takes no step before it is asked: one answer for all tasks.
            0.0 if order == "mean" else 0.1,
            tasks=16,
            second_order=order == "second",
        )
        parameters, state = outer.update(state, gradients, parameters, 3e-3)
    support, query = waves(10**6, tasks=200)
    return float(query(adapt(parameters, support, inner, 0.1, tasks=200)).mean())


def test_a_learnt_start_adapts_in_one_step_to_tasks_it_never_saw() -> None:
    """The mean solution, trained on the same tasks for as long, was never asked to move."""
    mean = trained("mean")
    assert trained("second") < 0.35 * mean
    assert trained("first") < 0.35 * mean
