"""M3 against a transcription of Algorithm 1, and its invariants. Muon: see test_outer.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hope_runtime.optim.muon import M3
from hope_runtime.optim.newton_schulz import newton_schulz


def gradients(shape: tuple[int, ...], count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


def run(rule: M3, context: list[Tensor]) -> list[dict[str, Tensor]]:
    """Parameter and state after each step, from zero."""
    parameters = {"w": torch.zeros_like(context[0])}
    state = rule.init(parameters)
    found = []
    for gradient in context:
        parameters, state = rule.update(state, {"w": gradient}, parameters, 0.1)
        found.append({**parameters, **state})
    return found


@pytest.mark.parametrize("period", [1, 3, 4])
def test_29_the_steps_are_those_of_algorithm_1(period: int) -> None:
    beta1, beta2, beta3, alpha, epsilon, T = 0.7, 0.4, 0.6, 0.5, 1e-3, 9
    rule = M3(beta1, beta2, beta3, alpha, period, epsilon, newton_schulz_steps=T)
    context = gradients((4, 3), 11)
    theta = M1 = M2 = V = B = O2 = torch.zeros(4, 3, dtype=torch.float64)
    for t, (g, found) in enumerate(zip(context, run(rule, context), strict=True), start=1):
        if t > 1 and (t - 1) % period == 0:
            M2 = M2 + beta3 * B
            B = torch.zeros_like(B)
            O2 = newton_schulz(M2, steps=T)
        M1 = M1 + beta1 * g
        V = V + beta2 * g * g
        B = B + g
        O1 = newton_schulz(M1, steps=T)
        theta = theta - 0.1 * (O1 + alpha * O2) / (V.sqrt() + epsilon)
        torch.testing.assert_close(found["w"], theta, rtol=0, atol=1e-10)


@pytest.mark.parametrize("average", [False, True])
def test_29_without_alpha_the_period_does_not_matter(average: bool) -> None:
    context = gradients((4, 3), 9)
    one = run(M3(alpha=0, period=2, average=average), context)[-1]["w"]
    other = run(M3(alpha=0, period=5, average=average), context)[-1]["w"]
    assert torch.equal(one, other)
    slow = run(M3(alpha=0.5, period=5, average=average), context)[-1]["w"]
    assert not torch.allclose(slow, other)


@pytest.mark.parametrize("average", [False, True])
def test_29_the_slow_direction_changes_once_a_period(average: bool) -> None:
    found = run(M3(period=3, average=average), gradients((4, 3), 10))
    directions = [torch.zeros(4, 3, dtype=torch.float64)]
    directions += [each["w.slow_direction"] for each in found]
    changed = [t for t in range(1, 11) if not torch.equal(directions[t], directions[t - 1])]
    assert changed == [4, 7, 10]


def test_29_nothing_moves_without_a_gradient() -> None:
    still = run(M3(period=1), [torch.zeros(4, 3, dtype=torch.float64)] * 3)
    assert not bool(still[-1]["w"].any())


def test_running_means_are_those_of_the_gradients() -> None:
    """With `average`, equal gradients fill each memory towards that gradient, V at once."""
    (gradient,) = gradients((4, 3), 1)
    rule = M3(beta1=0.5, beta2=0.9, beta3=0.5, period=2, average=True)
    found = run(rule, [gradient] * 200)[-1]
    torch.testing.assert_close(found["w.fast"], gradient)
    torch.testing.assert_close(found["w.slow"], gradient)
    first = run(rule, [gradient])[0]["w"]
    expected = -0.1 * newton_schulz(gradient, steps=12) / (gradient.abs() + 1e-8)
    torch.testing.assert_close(first, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("shape", [(5,), (), (2, 3, 2)])
def test_what_is_no_matrix_is_treated_as_one(shape: tuple[int, ...], average: bool) -> None:
    """A vector is a column, a scalar 1 x 1, a kernel flattened: no second rule."""
    as_matrix: dict[Any, tuple[int, int]] = {(5,): (5, 1), (): (1, 1), (2, 3, 2): (2, 6)}
    context = gradients(shape, 7)
    rule = M3(period=2, average=average)
    found = run(rule, context)[-1]["w"]
    flat = run(rule, [gradient.reshape(as_matrix[shape]) for gradient in context])[-1]["w"]
    torch.testing.assert_close(found, flat.reshape(shape), rtol=0, atol=1e-12)
