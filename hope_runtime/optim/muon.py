"""Muon and M3: momentum that is orthogonalised before it moves a parameter.

Both treat every parameter as a matrix (rule.as_matrix): a vector is one column, whose
orthogonalised form is the vector at length 1, and kernels are flattened after their first
dimension. There is no second rule for parameters that are no matrices; who wants Adam for
embeddings and gains, as is customary, puts them into a group of their own (outer.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hope_runtime.optim.hyperparameters import at_least, fraction, non_negative, one_of, positive
from hope_runtime.optim.newton_schulz import POLYNOMIALS, Polynomial, newton_schulz
from hope_runtime.optim.rule import Shape, Slots, UpdateRule, as_matrix

Scale = Literal["original", "match_rms_adamw", "none"]
SCALES = ("original", "match_rms_adamw", "none")


@dataclass(frozen=True)
class Muon(UpdateRule):
    """Muon (Jordan et al., 2024; Nested Learning, Eq. 42) with the defaults of torch.optim.Muon.

    `beta` keeps the momentum, a running mean; with `nesterov` the current gradient is mixed in
    once more. `scale` multiplies the rate of an (out, in) matrix by sqrt(max(1, out / in))
    (original), 0.2 sqrt(max(out, in)) (match_rms_adamw) or 1 (none, as the paper prints it).
    """

    beta: float = 0.95
    nesterov: bool = True
    scale: Scale = "original"
    newton_schulz_steps: int = 5
    polynomial: Polynomial = "quintic"

    def __post_init__(self) -> None:
        fraction("beta", self.beta)
        one_of("scale", self.scale, SCALES)
        at_least("newton_schulz_steps", self.newton_schulz_steps, 1)
        one_of("polynomial", self.polynomial, POLYNOMIALS)

    def slot_shapes(self, shape: Shape, batch_dims: int = 0) -> dict[str, Shape]:
        return {"memory": shape}

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
        key = gradient.to(slots["memory"].dtype)
        memory = slots["memory"].lerp(key, 1 - self.beta)
        matrix = as_matrix(key.lerp(memory, self.beta) if self.nesterov else memory, batch_dims)
        direction = newton_schulz(
            matrix, steps=self.newton_schulz_steps, polynomial=self.polynomial
        )
        rate = learning_rate * self._scale_of(*matrix.shape[-2:])
        moved = parameter.to(key.dtype).add(direction.reshape(parameter.shape), alpha=-rate)
        return moved.to(parameter.dtype), {"memory": memory}

    def _scale_of(self, out: int, width: int) -> float:
        if self.scale == "original":
            return math.sqrt(max(1.0, out / max(1, width)))
        if self.scale == "match_rms_adamw":
            return 0.2 * math.sqrt(max(out, width))
        return 1.0


@dataclass(frozen=True)
class M3(UpdateRule):
    """Multi-scale Momentum Muon (Nested Learning, Algorithm 1): a fast and a slow momentum.

    The fast memory is written at every step by beta1 g, the slow one every `period` steps by
    beta3 times the sum of the gradients since; V sums beta2 g². The parameter moves by
    -eta (NS(fast) + alpha NS(slow)) / (sqrt(V) + epsilon), entry by entry. (Eq. 75 prints the slow
    memory with a minus and beta2: slips; this follows the algorithm.)

    As printed nothing decays: V only grows, so steps shrink as in AdaGrad, and since directions
    have a size of their own, steps are inversely proportional to the gradient's. With `average`
    the sums are running means, with beta1, beta2 and beta3 as keep fractions, V corrected for its
    zero start and the slow memory fed with the mean gradient of its period.
    """

    beta1: float = 0.95
    beta2: float = 0.99
    beta3: float = 0.9
    alpha: float = 0.5
    period: int = 10
    epsilon: float = 1e-8
    average: bool = False
    newton_schulz_steps: int = 12
    polynomial: Polynomial = "cubic"

    def __post_init__(self) -> None:
        fraction("beta1", self.beta1)
        fraction("beta2", self.beta2)
        fraction("beta3", self.beta3)
        non_negative("alpha", self.alpha)
        at_least("period", self.period, 1)
        positive("epsilon", self.epsilon)
        at_least("newton_schulz_steps", self.newton_schulz_steps, 1)
        one_of("polynomial", self.polynomial, POLYNOMIALS)

    def slot_shapes(self, shape: Shape, batch_dims: int = 0) -> dict[str, Shape]:
        names = ("fast", "second", "slow", "slow_direction", "since")
        return {**dict.fromkeys(names, shape), "count": ()}

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
        count = slots["count"] + 1
        key = gradient.to(slots["fast"].dtype)
        slow, direction, since = slots["slow"], slots["slow_direction"], slots["since"]
        if int(count) > 1 and (int(count) - 1) % self.period == 0:
            slow = self._written(slow, since, self.beta3, self.period)
            direction = self._orthogonal(slow, batch_dims)
            since = torch.zeros_like(since)
        fast = self._written(slots["fast"], key, self.beta1)
        second = self._written(slots["second"], key.square(), self.beta2)
        variance = second / (1 - self.beta2 ** int(count)) if self.average else second
        move = self._orthogonal(fast, batch_dims) + self.alpha * direction
        move = move / (variance.sqrt() + self.epsilon)
        moved = parameter.to(key.dtype).add(move, alpha=-learning_rate)
        return moved.to(parameter.dtype), {
            "fast": fast,
            "second": second,
            "slow": slow,
            "slow_direction": direction,
            "since": since + key,
            "count": count,
        }

    def _written(self, memory: Tensor, what: Tensor, beta: float, adapter: int = 1) -> Tensor:
        """`memory` after a sum of `terms` terms was written into it."""
        if self.average:
            return beta * memory + (1 - beta) / adapter * what
        return memory + beta * what

    def _orthogonal(self, memory: Tensor, batch_dims: int) -> Tensor:
        steps, polynomial = self.newton_schulz_steps, self.polynomial
        matrix = as_matrix(memory, batch_dims)
        return newton_schulz(matrix, steps=steps, polynomial=polynomial).reshape(memory.shape)
