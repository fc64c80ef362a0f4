"""Gradient descent and DGD against the minimisations that define them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hope_runtime.errors import GradientError
from hope_runtime.optim.gradient_descent import DeltaGradientDescent, GradientDescent


def tensors(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def dgd(
    weight: Tensor, gradient: Tensor, inputs: Tensor, rate: float, batch_dims: int = 0
) -> Tensor:
    found, state = DeltaGradientDescent().update(
        {}, {"w": gradient}, {"w": weight}, rate, inputs={"w": inputs}, batch_dims=batch_dims
    )
    assert state == {}
    return found["w"]


@settings(max_examples=60, deadline=None)
@given(
    out=st.integers(1, 5),
    width=st.integers(1, 5),
    count=st.integers(1, 8),
    rate=st.sampled_from([1e-3, 0.3, 7.0]),
    seed=st.integers(0, 99),
)
def test_4_dgd_is_the_minimum_of_its_proximal_objective(
    out: int, width: int, count: int, rate: float, seed: int
) -> None:
    """Eq. 56, for any number of inputs whose gradients were summed."""
    weight, inputs, surprise = tensors((out, width), (count, width), (count, out), seed=seed)
    # u = -dL/dy, so the gradient of the summed loss is the sum of dL/dy xᵀ.
    found = dgd(weight, -surprise.mT @ inputs, inputs, rate).requires_grad_()
    objective = (found @ inputs.mT - surprise.mT).square().sum() / 2
    objective = objective + (found - weight).square().sum() / (2 * rate)
    (slope,) = torch.autograd.grad(objective, found)
    assert float(slope.abs().max()) < 1e-10 * max(1.0, 1 / rate)


@pytest.mark.parametrize("length", [1.0, 0.0, 3.0])
def test_4_one_input_gives_the_printed_form(length: float) -> None:
    """Eq. 57 with eta' = eta / (1 + eta ||x||²)."""
    weight, x, gradient_y = tensors((4, 3), (3,), (4,))
    x = length * x / x.norm()
    gradient, rate = torch.outer(gradient_y, x), 0.4
    eta = rate / (1 + rate * length**2)
    expected = weight @ (torch.eye(3) - eta * torch.outer(x, x)) - eta * gradient
    found = dgd(weight, gradient, x[None], rate)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_4_a_weighted_token_is_one_scaled_by_the_root_of_its_weight() -> None:
    weight, inputs, surprise = tensors((2, 3), (4, 3), (4, 2))
    weights = torch.tensor([0.5, 2.0, 1.0, 0.25], dtype=torch.float64)
    gradient = -(weights[:, None] * surprise).mT @ inputs
    found = dgd(weight, gradient, inputs * weights.sqrt()[:, None], 0.7).requires_grad_()
    errors = (inputs @ found.mT - surprise).square().sum(-1)
    objective = (weights * errors).sum() / 2 + (found - weight).square().sum() / (2 * 0.7)
    (slope,) = torch.autograd.grad(objective, found)
    assert float(slope.abs().max()) < 1e-10


@pytest.mark.parametrize("count", [1, 2, 6])
def test_rows_of_a_batch_learn_apart(count: int) -> None:
    weight, gradient, inputs = tensors((5, 2, 3), (5, 2, 3), (5, count, 3))
    found = dgd(weight, gradient, inputs, 0.2, batch_dims=1)
    for row in range(5):
        alone = dgd(weight[row], gradient[row], inputs[row], 0.2)
        torch.testing.assert_close(found[row], alone, rtol=0, atol=1e-12)


def test_a_parameter_without_inputs_takes_a_step_of_gradient_descent() -> None:
    weight, bias, gradient, slope, inputs = tensors((2, 3), (2,), (2, 3), (2,), (1, 3))
    parameters, gradients = {"w": weight, "b": bias}, {"w": gradient, "b": slope}
    found, _ = DeltaGradientDescent().update({}, gradients, parameters, 0.1, inputs={"w": inputs})
    plain, _ = GradientDescent().update({}, gradients, parameters, 0.1)
    assert torch.equal(found["b"], plain["b"])
    assert not torch.allclose(found["w"], plain["w"])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (None, "requires the inputs"),
        ({"v": torch.ones(1, 3)}, "not a parameter"),
        ({"w": torch.ones(1, 2)}, "do not match"),
        ({"w": torch.ones(3)}, "do not match"),
        ({"b": torch.ones(1, 2)}, "do not match"),
        ({"w": torch.tensor([[1.0, float("nan"), 0.0]])}, "not finite"),
    ],
)
def test_inputs_that_cannot_be_used_are_refused(
    inputs: dict[str, Tensor] | None, message: str
) -> None:
    parameters = {"w": torch.ones(2, 3), "b": torch.ones(2)}
    with pytest.raises(GradientError, match=message):
        DeltaGradientDescent().update({}, dict(parameters), parameters, 0.1, inputs=inputs)
