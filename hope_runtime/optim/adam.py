"""Adam, and the element-wise memory of gradients that it approximates (Nested Learning, app. B).

The memory m that maps every past gradient, entry by entry, to their root sum of squares P,
argmin sum_i ||m ⊙ g_i - P||² + lambda ||m||² (Eq. 101), is m = P ⊙ sum g / (sum g² + lambda)
(Eq. 102). ElementwiseMemory moves by exactly that. For lambda -> 0 it is sum g / sqrt(sum g²);
with running means in place of the sums that is Adam (Eq. 105). Its two moments are memories of one
level: both are written by the same gradient, and neither needs the other to be written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from hope_runtime.optim.hyperparameters import fraction, positive
from hope_runtime.optim.rule import Shape, Slots, UpdateRule


@dataclass(frozen=True)
class Adam(UpdateRule):
    """Adam (Kingma and Ba, arXiv 1412.6980, Algorithm 1).

    `beta1` and `beta2` are the keep fractions of the first and the second moment; both are
    corrected for their zero start. The defaults are those of the served levels.
    """

    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        fraction("beta1", self.beta1)
        fraction("beta2", self.beta2)
        positive("epsilon", self.epsilon)

    def slot_shapes(self, shape: Shape, batch_dims: int = 0) -> dict[str, Shape]:
        return {"first": shape, "second": shape, "count": ()}

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
        # The hash of every memory that was ever served depends on the order of these operations.
        # Where one is in place, it is on a tensor that was made here.
        count = slots["count"] + 1
        correction1 = 1 - self.beta1 ** int(count)
        correction2 = 1 - self.beta2 ** int(count)
        gradient = gradient.to(slots["first"].dtype)
        first = slots["first"].mul(self.beta1).add_(gradient, alpha=1 - self.beta1)
        second = slots["second"].mul(self.beta2)
        second = second.addcmul_(gradient, gradient, value=1 - self.beta2)
        scale = (second / correction2).sqrt_().add(self.epsilon)
        moved = parameter.to(first.dtype).addcdiv(first, scale, value=-learning_rate / correction1)
        return moved.to(parameter.dtype), {"first": first, "second": second, "count": count}


@dataclass(frozen=True)
class ElementwiseMemory(UpdateRule):
    """The optimum of Eq. 101 at every step: W <- W - eta P ⊙ sum g / (sum g² + lambda).

    `regularisation` is lambda, in squared units of the gradient. Nothing is forgotten, so steps
    shrink as in AdaGrad.
    """

    regularisation: float = 1e-8

    def __post_init__(self) -> None:
        positive("regularisation", self.regularisation)

    def slot_shapes(self, shape: Shape, batch_dims: int = 0) -> dict[str, Shape]:
        return {"sum": shape, "squares": shape}

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
        gradient = gradient.to(slots["sum"].dtype)
        total = slots["sum"] + gradient
        squares = slots["squares"].addcmul(gradient, gradient)
        memory = squares.sqrt() * total / (squares + self.regularisation)
        moved = parameter.to(total.dtype).add(memory, alpha=-learning_rate)
        return moved.to(parameter.dtype), {"sum": total, "squares": squares}
