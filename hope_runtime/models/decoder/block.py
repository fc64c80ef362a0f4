"""One block of the Transformer: pre-norm attention, then a gated MLP with private low-rank terms.

Knows how a session's terms enter the MLP. Leaves what the terms mean and how they are learnt to
memory/cms.py and learning.py.

Shape suffixes: B rows, T tokens, D model width, F mlp width, R rank, L layers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch.nn.functional as nnf
from torch import Tensor

from hope_runtime.layers.attention import AttentionPlan, attend
from hope_runtime.layers.config import ModelConfig
from hope_runtime.layers.kv_cache import KVCache
from hope_runtime.layers.lora import LayerAdapter
from hope_runtime.layers.norm import rms_norm
from hope_runtime.models.decoder.weights import LayerWeights

OnMlp = Callable[[int, Tensor, Tensor], None]
"""Is shown a layer's index and what its MLP's matrices read: (B, T, D) and (B, T, F)."""


def mlp(
    x_BTD: Tensor,
    weights: LayerWeights,
    adapter: LayerAdapter | None,
    seen: Callable[[Tensor, Tensor], None] | None = None,
) -> Tensor:
    """down(silu(gate x) * up x), each matrix with its low-rank term; (B, T, D) -> (B, T, D)."""
    gate_BTF, up_BTF = nnf.linear(x_BTD, weights.gate_up).chunk(2, dim=-1)
    if adapter is None:
        h_BTF = nnf.silu(gate_BTF) * up_BTF
        if seen is not None:
            seen(x_BTD, h_BTF)
        return nnf.linear(h_BTF, weights.down)
    # W x + B (A x): the product B A would cost a D by F matrix a layer and session.
    gate_a_RD, gate_b_FR, up_a_RD, up_b_FR, down_a_RF, down_b_DR = adapter
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
    adapter: LayerAdapter | None,
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
    return x_BTD + mlp(normed, weights, adapter, seen)
