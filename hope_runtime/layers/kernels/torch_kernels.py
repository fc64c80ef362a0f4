"""Kernels that torch has: any device, any dtype, any number of rows. Also states what kernels are.

Shape suffixes: X leading axes, N tokens of all rows, D model width, F MLP width.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as nnf
from torch import Tensor

from hope_runtime.layers.norm import rms_norm

# Up to this many tokens a product is bound by reading the weights.
FEW_TOKENS = 32


class Kernels(Protocol):
    """Tensor functions of a decoder block that depend on no private state."""

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """x Wᵀ + b, (X, in) -> (X, out)."""
        ...

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x / sqrt(mean(x^2) + eps) * weight over the last axis."""
        ...

    def gated(self, gate: Tensor, up: Tensor, activation: str) -> Tensor:
        """activation(gate) * up, (X, F); the activation is "silu" or "gelu_tanh"."""
        ...


class TorchKernels:
    """The plain forms, differentiable: training, prompts, and everything but a CPU's few rows."""

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """See Kernels.linear."""
        return nnf.linear(x, weight, bias)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See Kernels.rms_norm."""
        return rms_norm(x, weight, eps)

    def gated(self, gate: Tensor, up: Tensor, activation: str) -> Tensor:
        """See Kernels.gated."""
        return (nnf.silu(gate) if activation == "silu" else nnf.gelu(gate, approximate="tanh")) * up


class TorchRowKernels(TorchKernels):
    """The same for rows that decode together. Not differentiable."""

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """See Kernels.linear."""
        few = 1 < x.shape[0] <= FEW_TOKENS and bias is None
        if few and x.dtype is torch.float32 and x.device.type == "cpu":
            # Computed as W xᵀ, the weights are read once; the usual order takes up to three times
            # as long. In bfloat16 the usual order is the faster one.
            return torch.mm(weight, x.t()).t()
        return nnf.linear(x, weight, bias)
