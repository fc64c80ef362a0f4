"""Decoder blocks over a batch of short examples, without padding but in attention.

Linear layers run over the tokens of all examples, attention in small padded blocks, one for each
example. The prefix that chat examples share is read once, without gradient.

Shape suffixes: N tokens of all examples, E examples, T tokens of the longest, P tokens of the
prefix, D model width, H query heads, G key/value heads, W head width.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from hope_runtime.layers.attention import rotate, soft_capped
from hope_runtime.layers.config import ModelConfig
from hope_runtime.learning.recipes.specific.batch import BatchTensors
from hope_runtime.models.decoder.attention import WindowAttention
from hope_runtime.models.decoder.block import Adapter, Attention, OnMlp, decoder_block
from hope_runtime.models.decoder.weights import BaseModel

# Keys and values, (P, G, W) each, by layer.
Kept: TypeAlias = dict[int, tuple[Tensor, Tensor]]


def run_blocks(
    model: BaseModel,
    x_ND: Tensor,
    attention: Attention,
    adapter: Adapter,
    layers: range,
    on_mlp: OnMlp | None = None,
) -> Tensor:
    """Some blocks over the tokens, (N, D) -> (N, D)."""
    for layer in layers:
        x_ND = decoder_block(
            x_ND,
            config=model.config,
            weights=model.weights.layers[layer],
            layer=layer,
            attention=attention,
            adapter=adapter,
            on_mlp=on_mlp,
        )
    return x_ND


class BlockAttention:
    """Attention in small padded blocks: each example sees the prefix, if any, and itself."""

    def __init__(self, model: BaseModel, batch: BatchTensors, prefix: Kept | None) -> None:
        self._model, self._batch, self._prefix = model, batch, prefix
        mask_ETS = batch.mask()
        self._biases = [self._bias(mask_ETS)] * model.config.n_layers
        width, P = model.config.sliding_window, batch.prefix
        if width and P + batch.longest > width:
            places_S = torch.arange(P + batch.longest, device=model.device)
            near_TS = places_S[P:, None] - places_S[None] < width
            near = self._bias(mask_ETS & near_TS)
            for layer in model.config.sliding_layers:
                self._biases[layer] = near

    def _bias(self, mask_ETS: Tensor) -> Tensor:
        bias_ETS = torch.zeros(mask_ETS.shape, dtype=self._model.dtype, device=self._model.device)
        return bias_ETS.masked_fill_(~mask_ETS, float("-inf"))[:, None, None]

    def mix(self, layer: int, qkv: Tensor) -> Tensor:
        q_NHW, k_NGW, v_NGW = _heads(self._model, layer, qkv, self._batch.positions_N)
        prefix = None if self._prefix is None else self._prefix[layer]
        config, bias_ETS = self._model.config, self._biases[layer]
        return _attend(config, self._batch, q_NHW, k_NGW, v_NGW, prefix, bias_ETS)


class _PrefixAttention:
    """Causal attention of the prefix alone; keeps keys and values, (P, G, W) each, by layer."""

    def __init__(self, model: BaseModel, length: int) -> None:
        self._model = model
        self._whole = WindowAttention(model, length, cache=None, positions_BT=None, mask_BTS=None)
        self._positions_P = torch.arange(length, device=model.device)
        self.kept: Kept = {}

    def mix(self, layer: int, qkv: Tensor) -> Tensor:
        _, k, v = _heads(self._model, layer, qkv, self._positions_P)
        self.kept[layer] = (k, v)
        return self._whole.mix(layer, qkv[None])[0]


def _heads(
    model: BaseModel, layer: int, qkv: Tensor, positions_N: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys turned by their positions, and values: (N, H, W), (N, G, W), (N, G, W)."""
    config = model.config
    heads, shared = config.n_heads, config.n_kv_heads
    qkv = qkv.view(-1, heads + 2 * shared, config.head_dim)
    table = model.rotaries[layer]
    cos_NW, sin_NW = table.cos_PK[positions_N], table.sin_PK[positions_N]
    turned = rotate(qkv[:, : heads + shared], cos_NW[:, None], sin_NW[:, None])
    return turned[:, :heads], turned[:, heads:], qkv[:, heads + shared :]


def _attend(
    config: ModelConfig,
    batch: BatchTensors,
    q_NHW: Tensor,
    k_NGW: Tensor,
    v_NGW: Tensor,
    prefix: tuple[Tensor, Tensor] | None,
    bias_ETS: Tensor,
) -> Tensor:
    """(N, H * W); each example sees the prefix, where it has one, and itself."""
    E, T = batch.examples, batch.longest
    heads, width, shared = q_NHW.shape[1], q_NHW.shape[2], k_NGW.shape[1]

    def padded(x_NXW: Tensor) -> Tensor:
        count = x_NXW.shape[1]
        if not batch.is_full:
            empty = x_NXW.new_zeros(E * T, count, width)
            x_NXW = empty.index_copy(0, batch.places_N, x_NXW)
        return x_NXW.reshape(E, T, count, width).transpose(1, 2)

    q_EHTW, k_EGSW, v_EGSW = padded(q_NHW), padded(k_NGW), padded(v_NGW)
    if prefix is not None:
        k_EGSW, v_EGSW = (
            torch.cat([before.transpose(0, 1)[None].expand(E, -1, -1, -1), own], dim=2)
            for before, own in zip(prefix, (k_EGSW, v_EGSW), strict=True)
        )
    S, each = k_EGSW.shape[2], heads // shared
    scale = width**-0.5 if config.attention_scale is None else config.attention_scale
    scores = (q_EHTW.reshape(E, shared, each * T, width) @ k_EGSW.mT) * scale
    scores = soft_capped(scores, config.attention_softcap)
    shares = (scores.view(E, shared, each, T, S) + bias_ETS).softmax(-1)
    mixed = shares.view(E, shared, each * T, S) @ v_EGSW
    mixed = mixed.view(E, heads, T, width).transpose(1, 2).reshape(E * T, heads * width)
    mixed_NX: Tensor = mixed if batch.is_full else mixed.index_select(0, batch.places_N)
    return mixed_NX


@torch.no_grad()
def read_prefix(
    model: BaseModel, x_PD: Tensor, adapter: Adapter, layers: range
) -> tuple[Tensor, Kept]:
    """The prefix behind some layers, (P, D), and its keys and values at each of them."""
    attention = _PrefixAttention(model, len(x_PD))
    x_PD = run_blocks(model, x_PD, attention, adapter, layers)
    return x_PD, attention.kept
