"""Decoder blocks over a batch of short examples, without padding but in attention.

Linear layers run over the tokens of all examples, attention in small padded blocks, one for each
example. The prefix that chat examples share is read once, without gradient.

Shape suffixes: N tokens of all examples, E examples, T tokens of the longest, P tokens of the
prefix, D model width, H query heads, G key/value heads, W head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as nnf
from torch import Tensor

from hope_runtime.learning.recipes.specific.batch import Batch
from hope_runtime.models.decoder.block import Adapter, Attention, OnMlp, decoder_block
from hope_runtime.models.decoder.weights import BaseModel

# Keys and values, (P, G, W) each, by layer.
Kept: TypeAlias = dict[int, tuple[Tensor, Tensor]]


def embedded(model: BaseModel, ids: Sequence[int]) -> Tensor:
    return nnf.embedding(torch.tensor(ids, device=model.device), model.weights.embedding)


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

    def __init__(self, model: BaseModel, batch: Batch, prefix: Kept | None) -> None:
        self._model, self._batch, self._prefix = model, batch, prefix
        bias_ETS = torch.zeros(batch.mask_ETS.shape, dtype=model.dtype, device=model.device)
        self._bias_ETS = bias_ETS.masked_fill_(~batch.mask_ETS, float("-inf"))[:, None, None]

    def mix(self, layer: int, qkv: Tensor) -> Tensor:
        q_NHW, k_NGW, v_NGW = _heads(self._model, qkv, self._batch.positions_N)
        prefix = None if self._prefix is None else self._prefix[layer]
        return _attend(self._batch, q_NHW, k_NGW, v_NGW, prefix, self._bias_ETS)


class _PrefixAttention:
    """Causal attention of the prefix alone; keeps keys and values, (P, G, W) each, by layer."""

    def __init__(self, model: BaseModel, length: int) -> None:
        self._model = model
        self._positions_P = torch.arange(length, device=model.device)
        self.kept: Kept = {}

    def mix(self, layer: int, qkv: Tensor) -> Tensor:
        q, k, v = _heads(self._model, qkv, self._positions_P)
        self.kept[layer] = (k, v)
        mixed = nnf.scaled_dot_product_attention(
            q.transpose(0, 1)[None],
            k.transpose(0, 1)[None],
            v.transpose(0, 1)[None],
            is_causal=True,
            enable_gqa=True,
        )
        mixed_PX: Tensor = mixed[0].transpose(0, 1).reshape(len(self._positions_P), -1)
        return mixed_PX


def _heads(model: BaseModel, qkv: Tensor, positions_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys turned by their positions, and values: (N, H, W), (N, G, W), (N, G, W)."""
    config = model.config
    heads, shared = config.n_heads, config.n_kv_heads
    qkv = qkv.view(-1, heads + 2 * shared, config.head_dim)
    raw = qkv[:, : heads + shared]
    cos_NW, sin_NW = model.rotary.cos_PK[positions_N], model.rotary.sin_PK[positions_N]
    turned = torch.addcmul(
        raw * cos_NW[:, None], raw.roll(config.head_dim // 2, dims=-1), sin_NW[:, None]
    )
    return turned[:, :heads], turned[:, heads:], qkv[:, heads + shared :]


def _attend(
    batch: Batch,
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
    scores = (q_EHTW.reshape(E, shared, each * T, width) @ k_EGSW.mT) * width**-0.5
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
