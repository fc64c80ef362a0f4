"""Momentum as a linear memory of gradients (Nested Learning, sections 4.2 and 4.4).

A parameter moves by what a memory m of its shape holds: W <- W + eta m. The memory maps each row
of the gradient g (a key) to a value, the rows of -P; without values P is the identity. It is
written by one gradient step on an inner objective:

  Hebbian   <m gᵀ, P>               m <- alpha m - P g                 (Eqs. 33, 46, 47)
  delta     1/2 || m gᵀ + P ||²_F   m <- m (alpha I - gᵀ g) - P g    (Eqs. 48, 49)

The paper keeps eta inside m. For a constant rate that is the same to the last digit, since each
rule is linear in m; outside, a schedule moves the parameters and leaves the memory alone, as in
torch.optim.SGD.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from hope_runtime.optim.hyperparameters import fraction, one_of
from hope_runtime.optim.rule import Shape, Slots, UpdateRule, as_matrix, matrix_shape

Form = Literal["proximal", "printed", "printed_left"]
FORMS = ("proximal", "printed", "printed_left")


@dataclass(frozen=True)
class Momentum(UpdateRule):
    """Heavy-ball momentum, the value-less Hebbian memory. `keep` is alpha."""

    keep: float = 0.9

    def __post_init__(self) -> None:
        fraction("keep", self.keep)

    @property
    def has_values(self) -> bool:
        return False

    def slot_shapes(self, shape: Shape, batch_dims: int = 0) -> dict[str, Shape]:
        *rows, out, _ = matrix_shape(shape, batch_dims)
        values = {"values": (*rows, out, out)} if self.has_values else {}
        return {"memory": shape, **values}

    def start(self, parameter: Tensor, batch_dims: int = 0) -> Slots:
        slots = super().start(parameter, batch_dims)
        if self.has_values:
            slots["values"].diagonal(dim1=-2, dim2=-1).fill_(1)
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
        memory = slots["memory"]
        key = gradient.to(memory.dtype)
        values = slots.get("values")
        written = self.written(
            as_matrix(memory, batch_dims), as_matrix(key, batch_dims), values
        ).reshape(memory.shape)
        moved = parameter.to(memory.dtype).add(written, alpha=learning_rate)
        kept = {} if values is None else {"values": values}
        return moved.to(parameter.dtype), {"memory": written, **kept}

    def written(self, memory: Tensor, key: Tensor, values: Tensor | None) -> Tensor:
        """The memory (*rows, out, in) after one gradient of its shape."""
        return self.keep * memory - _valued(key, values)


@dataclass(frozen=True)
class ValuedMomentum(Momentum):
    """Eq. 47: m <- alpha m - P g. P preconditions the momentum.

    P (*rows, out, out) is the slot "values": the identity at first, and whatever the level that
    chooses it puts there. No gradient writes it.
    """

    @property
    def has_values(self) -> bool:
        return True


@dataclass(frozen=True)
class DeltaMomentum(Momentum):
    """Delta momentum: the memory first lets go of what it holds under the new keys.

    `form` is one of
      proximal      the default: the step is divided by 1 + ||g||²_F. For a gradient of rank one
                    (a single token's) that is the exact proximal step on the objective, and
                    the memory stays bounded for gradients of any size.
      printed       Eq. 49, m (alpha I - gᵀ g) - g. Diverges once ||g||² exceeds 1 + alpha.
      printed_left  the same with the erasure on the left, (alpha I - g gᵀ) m - g, as the short
                    version of the paper prints it: keys are then the columns of g.
    With `valued` it has the slot of ValuedMomentum, else P is the identity.
    """

    form: Form = "proximal"
    valued: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("form", self.form, FORMS)

    @property
    def has_values(self) -> bool:
        return self.valued

    def written(self, memory: Tensor, key: Tensor, values: Tensor | None) -> Tensor:
        if self.form == "printed_left":
            return self.keep * memory - _erased(memory.mT, key.mT).mT - _valued(key, values)
        step = delta_gradient(memory, key, values)
        if self.form == "proximal":
            step = step / (1 + key.square().sum((-2, -1), keepdim=True))
        return self.keep * memory - step


def delta_gradient(memory: Tensor, key: Tensor, values: Tensor | None = None) -> Tensor:
    """Gradient of 1/2 || m kᵀ + P ||²_F with respect to m, all (*rows, out, in)."""
    return _erased(memory, key) + _valued(key, values)


def _erased(memory: Tensor, key: Tensor) -> Tensor:
    """m kᵀ k, through the smaller of the two products."""
    if key.shape[-2] > key.shape[-1]:
        return memory @ (key.mT @ key)
    return memory @ key.mT @ key


def _valued(key: Tensor, values: Tensor | None) -> Tensor:
    return key if values is None else values @ key
