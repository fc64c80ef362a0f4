"""One block of the Transformer: pre-norm attention, then a gated MLP with private low-rank terms.

Knows how a session's terms enter the MLP. Leaves what the terms mean and how they are learnt to
memory/cms.py and learning.py.

Shape suffixes: B rows, T tokens, D model width, F mlp width, R rank, L layers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as nnf
from torch import Tensor

from hope_runtime.layers.attention import AttentionPlan, KVCache, attend
from hope_runtime.models.decoder.weights import LayerWeights
from hope_runtime.session.policy import ModelConfig


class LowRankTerms(Protocol):
    """A session's private part of the MLPs: the effective weight of a matrix is W + B @ A.

    In the dtype and on the device of the base weights. gate_a and up_a (L, R, D), gate_b and up_b
    (L, F, R), down_a (L, R, F), down_b (L, D, R).
    """

    @property
    def gate_a(self) -> Tensor: ...
    @property
    def gate_b(self) -> Tensor: ...
    @property
    def up_a(self) -> Tensor: ...
    @property
    def up_b(self) -> Tensor: ...
    @property
    def down_a(self) -> Tensor: ...
    @property
    def down_b(self) -> Tensor: ...


LayerTerms = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""One layer of LowRankTerms: gate_a, gate_b, up_a, up_b, down_a, down_b without their L."""


def split_layers(terms: LowRankTerms) -> list[LayerTerms]:
    """The terms layer by layer, as views; one unbind a tensor rather than one index a layer."""
    return list(
        zip(
            terms.gate_a.unbind(0),
            terms.gate_b.unbind(0),
            terms.up_a.unbind(0),
            terms.up_b.unbind(0),
            terms.down_a.unbind(0),
            terms.down_b.unbind(0),
            strict=True,
        )
    )


OnMlp = Callable[[int, Tensor, Tensor], None]
"""Is shown a layer's index and what its MLP's matrices read: (B, T, D) and (B, T, F)."""


def mlp(
    x_BTD: Tensor,
    weights: LayerWeights,
    terms: LayerTerms | None,
    seen: Callable[[Tensor, Tensor], None] | None = None,
) -> Tensor:
    """down(silu(gate x) * up x), each matrix with its low-rank term; (B, T, D) -> (B, T, D)."""
    gate_BTF, up_BTF = nnf.linear(x_BTD, weights.gate_up).chunk(2, dim=-1)
    if terms is None:
        h_BTF = nnf.silu(gate_BTF) * up_BTF
        if seen is not None:
            seen(x_BTD, h_BTF)
        return nnf.linear(h_BTF, weights.down)
    # W x + B (A x): the product B A would cost a D by F matrix a layer and session.
    gate_a_RD, gate_b_FR, up_a_RD, up_b_FR, down_a_RF, down_b_DR = terms
    gate_BTF = gate_BTF + nnf.linear(nnf.linear(x_BTD, gate_a_RD), gate_b_FR)
    up_BTF = up_BTF + nnf.linear(nnf.linear(x_BTD, up_a_RD), up_b_FR)
    h_BTF = nnf.silu(gate_BTF) * up_BTF
    if seen is not None:
        seen(x_BTD, h_BTF)
    private_BTD = nnf.linear(nnf.linear(h_BTF, down_a_RF), down_b_DR)
    return nnf.linear(h_BTF, weights.down) + private_BTD


def block(
    x_BTD: Tensor,
    *,
    config: ModelConfig,
    weights: LayerWeights,
    terms: LayerTerms | None,
    plan: AttentionPlan,
    cache: KVCache | None,
    layer: int,
    on_mlp: OnMlp | None = None,
) -> Tensor:
    """One layer, (B, T, D) -> (B, T, D): x + attention(norm x), then x + mlp(norm x)."""
    normed = rms_norm(x_BTD, weights.attn_norm, config.norm_eps)
    qkv = nnf.linear(normed, weights.qkv, weights.qkv_bias)
    mixed = attend(config, qkv, plan, cache, layer)
    x_BTD = x_BTD + nnf.linear(mixed, weights.out, weights.out_bias)
    normed = rms_norm(x_BTD, weights.mlp_norm, config.norm_eps)
    seen = None if on_mlp is None else partial(on_mlp, layer)
    return x_BTD + mlp(normed, weights, terms, seen)


def rms_norm(x_BTD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis."""
    if x_BTD.dtype is torch.float32 and x_BTD.device.type == "cpu":
        # The CPU has no fused kernel; squaring inside the norm saves a copy of x, and 8 % of a
        # prefill of 512 tokens.
        norm_BT1 = torch.linalg.vector_norm(x_BTD, dim=-1, keepdim=True)
        scale_BT1 = torch.rsqrt(norm_BT1 * norm_BT1 / x_BTD.shape[-1] + eps)
        return x_BTD * scale_BT1 * weight_D
    return torch.rms_norm(x_BTD, weight_D.shape, weight_D, eps)
