"""The decoder block: attention, then a gated MLP with private low-rank adapters.

Written once for training, for serving one text and for serving a batch. The caller supplies an
attention strategy (attention.py) and an adapter strategy (adapters.py); everything else follows
from ModelConfig and the layer's weights.

Shape suffixes: B rows, T tokens, N tokens of all rows, D model width, F MLP width, H query heads,
G key/value heads, K head width. `X` stands for the leading axes: (B, T) of whole windows or (N,) of
batched rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from hope_runtime.layers.config import ModelConfig
from hope_runtime.layers.kernels.torch_kernels import Kernels, TorchKernels
from hope_runtime.layers.norm import rms_norm
from hope_runtime.models.decoder.weights import LayerWeights

OnMlp = Callable[[int, Tensor, Tensor], None]
"""Observer of the MLPs: called with a layer's index and the inputs of its matrices,
(B, T, D) for gate and up, (B, T, F) for down."""

_TORCH = TorchKernels()


class Attention(Protocol):
    """Attention strategy: maps fused projections to mixed values, layer by layer."""

    def mix(self, layer: int, qkv: Tensor) -> Tensor:
        """Attention of one layer, (X, (H+2G)*K) -> (X, H*K). Stores keys and values if cached."""
        ...


class Adapter(Protocol):
    """Adapter strategy: adds private low-rank terms to the products of the MLP."""

    def gate_up(self, layer: int, x: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        """Gate and up, (X, F) each, with the terms of their input `x`, (X, D), added."""
        ...

    def down(self, layer: int, h: Tensor, out: Tensor) -> Tensor:
        """The MLP's output, (X, D), with the terms of its inner activations `h`, (X, F), added."""
        ...


def decoder_block(
    x: Tensor,
    *,
    config: ModelConfig,
    weights: LayerWeights,
    layer: int,
    attention: Attention,
    adapter: Adapter,
    kernels: Kernels = _TORCH,
    on_mlp: OnMlp | None = None,
) -> Tensor:
    """One layer, (X, D) -> (X, D): x + attention(norm x), then x + mlp(norm x), with norms where
    ModelConfig.norms says.

    Differentiable wherever the strategies are.
    """
    normed = _normed(x, weights.attn_norm, config, kernels)
    qkv = kernels.linear(normed, weights.qkv, weights.qkv_bias)
    if weights.q_norm is not None and weights.k_norm is not None:
        qkv = _heads_normed(qkv, weights.q_norm, weights.k_norm, config)
    mixed = attention.mix(layer, qkv)
    mixed = kernels.linear(mixed, weights.out, weights.out_bias)
    x = _added(x, mixed, weights.attn_post_norm, config, kernels)
    normed = _normed(x, weights.mlp_norm, config, kernels)
    gate, up = kernels.linear(normed, weights.gate_up, None).chunk(2, dim=-1)
    gate, up = adapter.gate_up(layer, normed, gate, up)
    h = kernels.gated(gate, up, config.activation)
    if on_mlp is not None:
        on_mlp(layer, normed, h)
    out = adapter.down(layer, h, kernels.linear(h, weights.down, None))
    return _added(x, out, weights.mlp_post_norm, config, kernels)


def _normed(x: Tensor, weight: Tensor | None, config: ModelConfig, kernels: Kernels) -> Tensor:
    """x normed, or x itself without a weight."""
    return x if weight is None else kernels.rms_norm(x, weight, config.norm_eps)


def _added(
    x: Tensor, part: Tensor, post_norm: Tensor | None, config: ModelConfig, kernels: Kernels
) -> Tensor:
    """The residual stream `x` with what attention or the MLP adds."""
    part = _normed(part, post_norm, config, kernels)
    return x + part if config.residual_scale == 1.0 else x + part * config.residual_scale


def _heads_normed(qkv: Tensor, q_norm: Tensor, k_norm: Tensor, config: ModelConfig) -> Tensor:
    """Fused projections, (X, (H+2G)*K), with queries and keys normed, each head by itself or all
    together as the weights' width says."""
    HK, GK = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    q, k, v = qkv.split_with_sizes((HK, GK, GK), dim=-1)
    q, k = (
        rms_norm(part.view(*part.shape[:-1], -1, len(weight)), weight, config.norm_eps).flatten(-2)
        for part, weight in ((q, q_norm), (k, k_norm))
    )
    return torch.cat((q, k, v), dim=-1)
