"""Gradient descent and delta gradient descent: memories that are the parameters themselves.

Both map a layer's input x to its local surprise u = -dL/dy in one proximal step from W_t (Nested
Learning, sections 4.1 and 4.5). They differ in the inner objective alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hope_runtime.optim.rule import Shape, Slots, UpdateRule, state_dtype


@dataclass(frozen=True)
class GradientDescent(UpdateRule):
    """W <- W - eta g: the step of argmin -<W x, u> + ||W - W_t||² / (2 eta) (Eq. 55)."""

    def slot_shapes(self, shape: Shape, batch_dims: int = 0) -> dict[str, Shape]:
        return {}

    def step(
        self,
        parameter: Tensor,
        gradient: Tensor,
        slots: Mapping[str, Tensor],
        learning_rate: float,
        *,
        batch_dims: int = 0,
        inputs: Tensor | None = None,
    ) -> tuple[Tensor, Slots]:
        return parameter.add(gradient.to(parameter.dtype), alpha=-learning_rate), {}


@dataclass(frozen=True)
class DeltaGradientDescent(UpdateRule):
    """DGD (Eq. 56): argmin 1/2 sum ||W x - u||² + ||W - W_t||² / (2 eta), in closed form.

    For one input, W <- W (I - eta' x xᵀ) - eta' g with eta' = eta / (1 + eta ||x||²), which is
    Eq. 57 where ||x|| = 1. (Its appendix C inverts eta and loses a sign on the way.) For the N
    inputs X of a stretch whose gradients were summed, W <- (W - eta g)(I + eta Xᵀ X)⁻¹: the same
    minimum, found by the Woodbury identity. A token that weighs w in the loss weighs w here too
    when its row of X is multiplied by the square root of w.

    A parameter without inputs is no linear layer's weight and takes a step of gradient descent.
    """

    needs_inputs = True

    def slot_shapes(self, shape: Shape, batch_dims: int = 0) -> dict[str, Shape]:
        return {}

    def step(
        self,
        parameter: Tensor,
        gradient: Tensor,
        slots: Mapping[str, Tensor],
        learning_rate: float,
        *,
        batch_dims: int = 0,
        inputs: Tensor | None = None,
    ) -> tuple[Tensor, Slots]:
        dtype = state_dtype(parameter)
        stepped = parameter.to(dtype).add(gradient.to(dtype), alpha=-learning_rate)
        if inputs is not None:
            stepped = _without_inputs(stepped, inputs.to(dtype), learning_rate)
        return stepped.to(parameter.dtype), {}


def _without_inputs(weight: Tensor, inputs_NI: Tensor, eta: float) -> Tensor:
    """weight (I + eta Xᵀ X)⁻¹, by whichever of the two Gram matrices is smaller."""
    count, width = inputs_NI.shape[-2:]
    if count == 1:
        damped = eta / (1 + eta * inputs_NI @ inputs_NI.mT)
        return weight - damped * (weight @ inputs_NI.mT) @ inputs_NI
    if count > width:
        gram_II = _identity(width, weight) + eta * (inputs_NI.mT @ inputs_NI)
        return _divided(weight, gram_II)
    gram_NN = _identity(count, weight) + eta * (inputs_NI @ inputs_NI.mT)
    return weight - eta * _divided(weight @ inputs_NI.mT, gram_NN) @ inputs_NI


def _divided(left: Tensor, right: Tensor) -> Tensor:
    """left right⁻¹."""
    quotient: Tensor = torch.linalg.solve(right, left, left=False)
    return quotient


def _identity(size: int, like: Tensor) -> Tensor:
    return torch.eye(size, dtype=like.dtype, device=like.device)
