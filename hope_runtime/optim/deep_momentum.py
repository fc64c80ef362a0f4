"""Deep momentum gradient descent: the memory of gradients is an MLP (Nested Learning, 4.4).

The memory maps each row k of the gradient u (out, in) to a vector of `out` values,

  m(k) = W1 tanh(W2 phi(k)) / sqrt(H)        or, without hidden units, m(k) = W phi(k),

and is written by one gradient step on an inner objective with the value -e_j for row j:

  dot    sum_j <m(u_j), e_j>                 Hebbian (Eqs. 50 and 52)
  l2     1/2 sum_j || m(u_j) + e_j ||²       delta rule

The parameter moves by what is read under the unit keys, W <- W + eta sigma(m(I)), a matrix of
W's shape. That is how this code reads the m(u) of Eqs. 50 to 52, which has W's shape for no other
keys; a linear memory then is momentum, and with sigma = Newton-Schulz it is Muon, as the paper
says. An odd hidden function keeps m(-u) = -m(u).

Written m <- alpha m - rho grad, an MLP would forget its first layer, hence its keys; here alpha
draws the layers back to where they started, which for a linear memory (it starts at zero) is the
same. Shape letters: O out, I in, F features, H hidden units; leading dimensions are rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hope_runtime.optim.hyperparameters import at_least, fraction, one_of, positive
from hope_runtime.optim.momentum import delta_gradient
from hope_runtime.optim.newton_schulz import POLYNOMIALS, Polynomial, newton_schulz
from hope_runtime.optim.rule import Shape, Slots, UpdateRule, as_matrix, matrix_shape, state_dtype

Objective = Literal["dot", "l2"]
FeatureMap = Literal["identity", "unit", "cubic"]
Output = Literal["identity", "newton_schulz"]
# Directions of the hidden units at the start, the same for every parameter of a shape.
SEED = 2512


@dataclass(frozen=True)
class DeepMomentum(UpdateRule):
    """DMGD. `keep` is alpha, `inner_rate` rho; `hidden` units, 0 for a linear memory.

    `feature` is phi of Eq. 51: the identity; `unit`, the key's direction alone; or `cubic`, the
    direction and its entries cubed. Unit keys e_i are read as they are. With the l2 objective
    rho is divided by 1 + rho times the squared norm of all keys, as in proximal DeltaMomentum.
    """

    keep: float = 0.9
    hidden: int = 64
    objective: Objective = "dot"
    feature: FeatureMap = "identity"
    output: Output = "identity"
    inner_rate: float = 1.0
    newton_schulz_steps: int = 12
    polynomial: Polynomial = "cubic"

    def __post_init__(self) -> None:
        fraction("keep", self.keep)
        at_least("hidden", self.hidden, 0)
        one_of("objective", self.objective, ("dot", "l2"))
        one_of("feature", self.feature, ("identity", "unit", "cubic"))
        one_of("output", self.output, ("identity", "newton_schulz"))
        positive("inner_rate", self.inner_rate)
        at_least("newton_schulz_steps", self.newton_schulz_steps, 1)
        one_of("polynomial", self.polynomial, POLYNOMIALS)

    def slot_shapes(self, shape: Shape, batch_dims: int = 0) -> dict[str, Shape]:
        *rows, out, width = matrix_shape(shape, batch_dims)
        width *= 2 if self.feature == "cubic" else 1
        if not self.hidden:
            return {"memory": (*rows, out, width)}
        # W2 is start + inner, so that alpha draws it back to where it started.
        return {
            "outer": (*rows, out, self.hidden),
            "inner": (*rows, self.hidden, width),
            "start": (*rows, self.hidden, width),
        }

    def start(self, parameter: Tensor, batch_dims: int = 0) -> Slots:
        slots = super().start(parameter, batch_dims)
        if self.hidden:
            generator = torch.Generator().manual_seed(SEED)
            shape = slots["start"].shape[-2:]
            slots["start"] += torch.randn(shape, generator=generator).to(parameter.device)
        return slots

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
        key_OI = as_matrix(gradient, batch_dims).to(dtype)
        gradients = self.inner_gradients(slots, key_OI)
        new = {
            name: self.keep * slots[name] - self.inner_rate * gradients[name]
            if name in gradients
            else slots[name]
            for name in slots
        }
        read_OI = self.read(new, torch.eye(key_OI.shape[-1], dtype=dtype, device=key_OI.device))
        if self.output == "newton_schulz":
            read_OI = newton_schulz(
                read_OI, steps=self.newton_schulz_steps, polynomial=self.polynomial
            )
        moved = parameter.to(dtype).add(read_OI.reshape(parameter.shape), alpha=learning_rate)
        return moved.to(parameter.dtype), new

    def read(self, slots: Mapping[str, Tensor], keys_NI: Tensor) -> Tensor:
        """m of each key, as columns (*rows, O, N)."""
        features_NF = self.features(keys_NI)
        if not self.hidden:
            return slots["memory"] @ features_NF.mT
        hidden_NH = torch.tanh(features_NF @ (slots["start"] + slots["inner"]).mT)
        return slots["outer"] @ hidden_NH.mT / math.sqrt(self.hidden)

    def features(self, keys_NI: Tensor) -> Tensor:
        """phi of each key, (*rows, N, F); of a zero key, zero."""
        if self.feature == "identity":
            return keys_NI
        norm_N1 = torch.linalg.vector_norm(keys_NI, dim=-1, keepdim=True)
        unit_NI = keys_NI / torch.where(norm_N1 > 0, norm_N1, torch.ones_like(norm_N1))
        return unit_NI if self.feature == "unit" else torch.cat((unit_NI, unit_NI**3), dim=-1)

    def inner_gradients(self, slots: Mapping[str, Tensor], key_OI: Tensor) -> Slots:
        """Gradients of the inner objective for the gradient u = `key_OI`, by slot.

        For l2 they are divided as the class says, in the inner rate's place.
        """
        key_OF = self.features(key_OI)
        l2 = self.objective == "l2"
        if not self.hidden:
            gradient_OF = delta_gradient(slots["memory"], key_OF) if l2 else key_OF
            return self._damped({"memory": gradient_OF}, key_OF)
        outer_OH = slots["outer"]
        scale = 1 / math.sqrt(self.hidden)
        hidden_OH = torch.tanh(key_OF @ (slots["start"] + slots["inner"]).mT)
        if l2:
            # Row j is m(u_j) + e_j.
            error_OO = hidden_OH @ outer_OH.mT * scale
            error_OO = error_OO + torch.eye(
                error_OO.shape[-1], dtype=error_OO.dtype, device=error_OO.device
            )
            outer_gradient_OH = error_OO.mT @ hidden_OH * scale
            back_OH = error_OO @ outer_OH * scale
        else:
            outer_gradient_OH = hidden_OH * scale
            back_OH = outer_OH * scale
        inner_gradient_HF = (back_OH * (1 - hidden_OH.square())).mT @ key_OF
        gradients = {"outer": outer_gradient_OH, "inner": inner_gradient_HF}
        return self._damped(gradients, hidden_OH * scale)

    def _damped(self, gradients: Slots, keys: Tensor) -> Slots:
        if self.objective == "dot":
            return gradients
        norm = keys.square().sum((-2, -1), keepdim=True)
        return {name: each / (1 + self.inner_rate * norm) for name, each in gradients.items()}
