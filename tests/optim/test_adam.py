"""Adam: the bits that served levels rely on, and the element-wise memory that it approximates."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hope_runtime.errors import GradientError
from hope_runtime.optim.adam import Adam, ElementwiseMemory
from hope_runtime.optim.rule import InPlace


def in_place_adam(
    parameter: Tensor, gradients: list[Tensor], rates: list[float], beta1: float, beta2: float
) -> Tensor:
    """Adam's operations in the order in which stored memories were learnt."""
    parameter = parameter.clone()
    first, second = torch.zeros_like(parameter), torch.zeros_like(parameter)
    for steps, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        first.mul_(beta1).add_(gradient, alpha=1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        scale = (second / (1 - beta2**steps)).sqrt_().add_(1e-8)
        parameter.addcdiv_(first, scale, value=-rate / (1 - beta1**steps))
    return parameter


@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.5, 0.999), (0.0, 0.9)])
@pytest.mark.parametrize("shape", [(33, 47), (5,), (3, 16, 64)])
def test_every_bit_is_that_of_the_operations_in_place(
    betas: tuple[float, float], shape: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(0)
    parameter = torch.randn(shape, generator=generator)
    gradients = [torch.randn(shape, generator=generator) for _ in range(25)]
    rates = [0.1 / (step + 1) for step in range(25)]
    mine = parameter.clone()
    adam = InPlace(Adam(*betas), [mine])
    for gradient, rate in zip(gradients, rates, strict=True):
        adam.step([gradient], rate)
    assert torch.equal(mine, in_place_adam(parameter, gradients, rates, *betas))


def test_without_a_gradient_nothing_moves() -> None:
    parameter = torch.ones(3)
    InPlace(Adam(), [parameter]).step([torch.zeros(3)], 0.1)
    assert torch.equal(parameter, torch.ones(3))


@pytest.mark.parametrize(
    "gradients",
    [
        [torch.ones(3)],
        [torch.ones(3), torch.ones(3)],
        [torch.ones(3), torch.tensor([1.0, float("nan")])],
        [torch.ones(3), torch.tensor([1.0, float("inf")])],
    ],
    ids=["missing", "misshapen", "nan", "infinite"],
)
def test_a_gradient_that_cannot_be_used_changes_nothing(gradients: list[Tensor]) -> None:
    parameters = [torch.ones(3), torch.ones(2)]
    good = [torch.full((3,), 0.5), torch.full((2,), -2.0)]
    twin = [tensor.clone() for tensor in parameters]
    adam, other = InPlace(Adam(), parameters), InPlace(Adam(), twin)
    adam.step(good, 0.1)
    other.step(good, 0.1)
    with pytest.raises(GradientError):
        adam.step(gradients, 0.1)
    adam.step(good, 0.1)
    other.step(good, 0.1)
    assert all(torch.equal(a, b) for a, b in zip(parameters, twin, strict=True))


def test_the_elementwise_memory_minimises_its_objective() -> None:
    """Eq. 101 has one minimum; there, its gradient vanishes."""
    generator = torch.Generator().manual_seed(1)
    gradients = [torch.randn(4, 3, generator=generator, dtype=torch.float64) for _ in range(6)]
    rule = ElementwiseMemory(regularisation=0.3)
    zero = {"w": torch.zeros(4, 3, dtype=torch.float64)}
    state = rule.init(zero)
    for gradient in gradients:
        moved, state = rule.update(state, {"w": gradient}, zero, 1.0)
    memory = -moved["w"].requires_grad_()
    target = sum(gradient.square() for gradient in gradients).sqrt()
    objective = sum(((memory * gradient - target) ** 2).sum() for gradient in gradients)
    objective = objective + 0.3 * memory.square().sum()
    (slope,) = torch.autograd.grad(objective, memory)
    assert float(slope.abs().max()) < 1e-10


def test_adam_is_the_elementwise_memory_over_running_means() -> None:
    """Eq. 105: with sums in place of running means, Adam's step is the memory's for lambda -> 0.

    Gradients of one size each step make sums and corrected means proportional.
    """
    gradient = torch.tensor([[0.7, -2.0], [1e-3, 40.0]], dtype=torch.float64)
    zero = {"w": torch.zeros(2, 2, dtype=torch.float64)}
    adam, memory = Adam(epsilon=1e-14), ElementwiseMemory(regularisation=1e-14)
    adam_state, memory_state = adam.init(zero), memory.init(zero)
    for step in range(1, 8):
        by_adam, adam_state = adam.update(adam_state, {"w": gradient}, zero, 1.0)
        by_memory, memory_state = memory.update(memory_state, {"w": gradient}, zero, 1.0)
        # sum g / sqrt(sum g²) of t equal gradients is sqrt(t) times their sign.
        torch.testing.assert_close(by_memory["w"], step**0.5 * by_adam["w"], rtol=1e-6, atol=0)
