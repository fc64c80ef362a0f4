"""Adam against torch's own."""

from __future__ import annotations

import pytest
import torch

from hope_runtime.optim.adam import Adam


@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.5, 0.999), (0.0, 0.9)])
def test_adam_takes_the_steps_of_torchs_adam(betas: tuple[float, float]) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (5,), (2, 1, 2)]
    mine = [torch.randn(shape, generator=generator) for shape in shapes]
    theirs = [tensor.clone().requires_grad_() for tensor in mine]
    reference = torch.optim.Adam(theirs, betas=betas, eps=1e-8)
    adam = Adam(mine, beta1=betas[0], beta2=betas[1])
    for step in range(20):
        rate = 0.1 / (step + 1)
        gradients = [torch.randn(shape, generator=generator) for shape in shapes]
        adam.step(gradients, rate)
        reference.param_groups[0]["lr"] = rate
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = gradient
        reference.step()
        for ours, other in zip(mine, theirs, strict=True):
            torch.testing.assert_close(ours, other.detach(), rtol=1e-5, atol=1e-6)


def test_without_a_gradient_nothing_moves() -> None:
    parameter = torch.ones(3)
    Adam([parameter]).step([torch.zeros(3)], 0.1)
    assert torch.equal(parameter, torch.ones(3))


def test_every_parameter_needs_its_gradient() -> None:
    with pytest.raises(ValueError, match="zip"):
        Adam([torch.ones(3), torch.ones(2)]).step([torch.ones(3)], 0.1)
