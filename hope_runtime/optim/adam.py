"""Adam as an element-wise associative memory of gradients (Nested Learning, section 4.2).

Its two moments are memories of one level: both are written by the same gradient, and neither
needs the other to be written.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Adam:
    """Updates `parameters` in place. Float32 moments of the parameters' shapes, zero at first.

    `beta1` and `beta2` are the keep fractions of the first and the second moment; both are
    corrected for their zero start (Kingma and Ba, arXiv 1412.6980, Algorithm 1).
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        *,
        beta1: float = 0.9,
        beta2: float = 0.99,
        epsilon: float = 1e-8,
    ) -> None:
        self._parameters = list(parameters)
        self._first = [torch.zeros_like(p, dtype=torch.float32) for p in self._parameters]
        self._second = [torch.zeros_like(p, dtype=torch.float32) for p in self._parameters]
        self._beta1, self._beta2, self._epsilon = beta1, beta2, epsilon
        self._steps = 0

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], learning_rate: float) -> None:
        """One update with `gradients`, in the parameters' order."""
        self._steps += 1
        correction1 = 1 - self._beta1**self._steps
        correction2 = 1 - self._beta2**self._steps
        for parameter, gradient, first, second in zip(
            self._parameters, gradients, self._first, self._second, strict=True
        ):
            first.mul_(self._beta1).add_(gradient, alpha=1 - self._beta1)
            second.mul_(self._beta2).addcmul_(gradient, gradient, value=1 - self._beta2)
            scale = (second / correction2).sqrt_().add_(self._epsilon)
            parameter.addcdiv_(first, scale, value=-learning_rate / correction1)
