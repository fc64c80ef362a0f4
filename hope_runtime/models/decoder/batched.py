"""One forward pass over rows of different sessions: each at its own position, window and memory.

Rows are independent: the products with the shared weights run over all tokens of all rows at once,
everything private (attention, low-rank terms) runs row by row or batched over rows, and nothing is
ever summed across rows. So a row computes what it would alone, up to the rounding of its products,
and a row of NaN changes no other.

Serving only: not differentiable. Which rows share a pass is engine/runner.py's business.

Shape suffixes: N tokens of all rows, B rows of one token, T tokens of one row, D model width,
F MLP width, R rank, L layers, K head width, H query heads, G key/value heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor

from hope_runtime.errors import WindowOverflowError
from hope_runtime.layers.kv_cache import KVCache
from hope_runtime.layers.lora import LayerAdapter, LoraAdapter, split_layers
from hope_runtime.layers.norm import rms_norm
from hope_runtime.models.decoder.forward import FastMemory
from hope_runtime.models.decoder.weights import BaseModel

# Up to here a product is bound by reading the weights.
FEW_TOKENS = 32


@dataclass(frozen=True, slots=True)
class RowInput:
    """Token ids that one row reads next, behind what its cache (of one row) holds.

    `terms` are its session's, in the dtype of the weights; None is the frozen base.
    """

    ids: tuple[int, ...]
    cache: KVCache
    adapter: LoraAdapter | None = None


class AdapterStack:
    """The terms of rows that decode together, side by side, so that one product serves all.

    Rows of a smaller rank, or without terms, are filled up with zeros, which add exactly nothing.
    Gate and up read the same input, so their first factors lie together. The tensors are
    gate_up_a (L, B, 2R, D), gate_b and up_b (L, B, R, F), down_a (L, B, R, F), down_b (L, B, R, D):
    second factors lie with their rank first, as the product of a single token reads them fastest.
    """

    def __init__(self, model: BaseModel, rows: Sequence[LoraAdapter | None]) -> None:
        config, B = model.config, len(rows)
        L, D, F = config.n_layers, config.d_model, config.d_ff
        self.rank = R = max((adapter.rank for adapter in rows if adapter is not None), default=0)
        if not R:
            return

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(L, B, *shape, dtype=model.dtype, device=model.device)

        gate_up_a, gate_b, up_b = zeros(2 * R, D), zeros(R, F), zeros(R, F)
        down_a, down_b = zeros(R, F), zeros(R, D)
        for row, adapter in enumerate(rows):
            if adapter is None:
                continue
            r = adapter.rank
            gate_up_a[:, row, :r], gate_up_a[:, row, R : R + r] = adapter.gate_a, adapter.up_a
            gate_b[:, row, :r], up_b[:, row, :r] = adapter.gate_b.mT, adapter.up_b.mT
            down_a[:, row, :r], down_b[:, row, :r] = adapter.down_a, adapter.down_b.mT
        tensors = (gate_up_a, gate_b, up_b, down_a, down_b)
        self.layers = list(zip(*(tensor.unbind(0) for tensor in tensors), strict=True))

    def mlp(
        self, layer: int, x_BD: Tensor, gate_BF: Tensor, up_BF: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gate and up with each row's own term added."""
        gate_up_a, gate_b, up_b, _, _ = self.layers[layer]
        # The vector stands on the left: on a CPU that order is two to four times as fast.
        inner_B12R = torch.bmm(x_BD[:, None], gate_up_a.mT)
        gate_BF = gate_BF + torch.bmm(inner_B12R[..., : self.rank], gate_b)[:, 0]
        up_BF = up_BF + torch.bmm(inner_B12R[..., self.rank :], up_b)[:, 0]
        return gate_BF, up_BF

    def down(self, layer: int, h_BF: Tensor, out_BD: Tensor) -> Tensor:
        """The MLP's output with each row's own term added."""
        _, _, _, down_a, down_b = self.layers[layer]
        inner_B1R = torch.bmm(h_BF[:, None], down_a.mT)
        return out_BD + torch.bmm(inner_B1R, down_b)[:, 0]


@torch.no_grad()
def forward_rows(
    model: BaseModel,
    rows: Sequence[RowInput],
    stack: AdapterStack,
    fast_memory: FastMemory | None = None,
) -> list[Tensor]:
    """Hidden states after the final norm, (T, D) for each row; the caches grow by T.

    Rows of one token come first, and `stack` holds their terms in this order; the others bring
    theirs along. `branch` sees the tokens of all rows, (N, D), in the order of the rows. Raises
    WindowOverflowError, before anything was computed, when a cache or the known positions do not
    hold a row's tokens.
    """
    config, weights = model.config, model.weights
    for row in rows:
        _check_room(model, row)
    lengths = [len(row.ids) for row in rows]
    B = sum(length == 1 for length in lengths)
    assert all(length == 1 for length in lengths[:B]), "rows of one token must come first"
    device = weights.device
    ids_N = torch.tensor([token for row in rows for token in row.ids], device=device)
    positions_N = torch.cat(
        [torch.arange(row.cache.length, row.cache.length + len(row.ids)) for row in rows]
    ).to(device)
    cos_N1K, sin_N1K = (part[0] for part in model.rotary.at(positions_N[None]))
    biases = [_causal_bias(model, row) for row in rows]
    places = [_Places(row) for row in rows]
    own_terms = [split_layers(row.adapter) if row.adapter is not None else None for row in rows[B:]]
    x_ND = nnf.embedding(ids_N, weights.embedding)
    for index, layer in enumerate(weights.layers):
        if fast_memory is not None:
            x_ND = fast_memory.at(index, x_ND)
        normed_ND = rms_norm(x_ND[None], layer.attn_norm, config.norm_eps)[0]
        qkv_NX = _product(normed_ND, layer.qkv, layer.qkv_bias)
        mixed_NX = _attend(model, qkv_NX, cos_N1K, sin_N1K, rows, places, biases, index)
        x_ND = x_ND + _product(mixed_NX, layer.out, layer.out_bias)
        normed_ND = rms_norm(x_ND[None], layer.mlp_norm, config.norm_eps)[0]
        gate_NF, up_NF = _product(normed_ND, layer.gate_up).chunk(2, dim=-1)
        if stack.rank:
            gate_BF, up_BF = stack.mlp(index, normed_ND[:B], gate_NF[:B], up_NF[:B])
            gate_NF = torch.cat([gate_BF, gate_NF[B:]])
            up_NF = torch.cat([up_BF, up_NF[B:]])
        adapter = [None if of_row is None else of_row[index] for of_row in own_terms]
        _add_own(adapter, lengths, B, normed_ND, gate_NF, up_NF)
        h_NF = nnf.silu(gate_NF) * up_NF
        out_ND = _product(h_NF, layer.down)
        if stack.rank:
            out_ND = torch.cat([stack.down(index, h_NF[:B], out_ND[:B]), out_ND[B:]])
        _add_own_down(adapter, lengths, B, h_NF, out_ND)
        x_ND = x_ND + out_ND
    if fast_memory is not None:
        x_ND = fast_memory.at(config.n_layers, x_ND)
    for row in rows:
        row.cache.length += len(row.ids)
    hidden_ND = rms_norm(x_ND[None], weights.final_norm, config.norm_eps)[0]
    return list(torch.split(hidden_ND, lengths))


@torch.no_grad()
def logits_of_rows(model: BaseModel, hidden_BD: Tensor) -> Tensor:
    """Scores of the next token of several rows, (B, D) -> (B, V)."""
    return _product(hidden_BD, model.weights.lm_head)


def _product(x_ND: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b, (N, in) -> (N, out)."""
    if 1 < x_ND.shape[0] <= FEW_TOKENS and x_ND.device.type == "cpu" and bias is None:
        # Read as W xᵀ, the weights pass by once; the usual order reads them twice as slowly.
        return torch.mm(weight, x_ND.t()).t()
    return nnf.linear(x_ND, weight, bias)


def _check_room(model: BaseModel, row: RowInput) -> None:
    stop = row.cache.length + len(row.ids)
    if stop > row.cache.capacity:
        raise WindowOverflowError(
            f"{stop} tokens exceed the cache capacity of {row.cache.capacity}"
        )
    if stop > model.config.max_positions:
        known = model.config.max_positions
        raise WindowOverflowError(f"{stop} tokens exceed the {known} positions of the model")


def _causal_bias(model: BaseModel, row: RowInput) -> Tensor | None:
    """What attention adds to the scores of a row of several tokens, (T, S)."""
    T, start = len(row.ids), row.cache.length
    if T == 1:
        return None
    hidden = torch.ones(T, start + T, dtype=torch.bool, device=model.device).triu(start + 1)
    return torch.zeros(hidden.shape, dtype=model.dtype, device=model.device).masked_fill_(
        hidden, float("-inf")
    )


class _Places:
    """Where one row's new keys and values go, and all that it then sees, a view a layer.

    Made once a pass, for all layers at once: with many rows of one token, making views is a
    measurable part of a step.
    """

    def __init__(self, row: RowInput) -> None:
        cache, start = row.cache, row.cache.length
        stop = start + len(row.ids)
        self.new_k = cache.k[:, 0, :, start:stop].unbind(0)  # (G, T, K) each
        self.new_v = cache.v[:, 0, :, start:stop].unbind(0)
        self.all_k = cache.k[:, :, :, :stop].unbind(0)  # (1, G, S, K) each
        self.all_v = cache.v[:, :, :, :stop].unbind(0)


def _attend(
    model: BaseModel,
    qkv_NX: Tensor,
    cos_N1K: Tensor,
    sin_N1K: Tensor,
    rows: Sequence[RowInput],
    places: Sequence[_Places],
    biases: Sequence[Tensor | None],
    layer: int,
) -> Tensor:
    """Attention of one layer, each row over its own cache: (N, (H+2G)*K) -> (N, H*K)."""
    config = model.config
    H, G, K = config.n_heads, config.n_kv_heads, config.head_dim
    # In one piece, because the fast kernels of attention take nothing else.
    heads_NXK = qkv_NX.contiguous().view(-1, H + 2 * G, K)
    raw = heads_NXK[:, : H + G]
    turned = torch.addcmul(raw * cos_N1K, raw.roll(K // 2, dims=-1), sin_N1K)
    lengths = [len(row.ids) for row in rows]
    q_rows = torch.split(turned[:, :H], lengths)
    k_rows = torch.split(turned[:, H:], lengths)
    v_rows = torch.split(heads_NXK[:, H + G :], lengths)
    mixed = []
    for q_THK, k_TGK, v_TGK, at, bias in zip(q_rows, k_rows, v_rows, places, biases, strict=True):
        at.new_k[layer].copy_(k_TGK.transpose(0, 1))
        at.new_v[layer].copy_(v_TGK.transpose(0, 1))
        keys, values = at.all_k[layer], at.all_v[layer]
        if len(q_THK) == 1:
            # The query heads of a group are the rows of one product with its keys.
            q = q_THK.reshape(1, G, H // G, K)
            out = nnf.scaled_dot_product_attention(q, keys, values)
        else:
            q = q_THK.transpose(0, 1)[None]
            out = nnf.scaled_dot_product_attention(
                q, keys, values, attn_mask=bias, enable_gqa=G != H
            )[0].transpose(0, 1)
        mixed.append(out.reshape(-1, H * K))
    return torch.cat(mixed)


def _add_own(
    adapter: Sequence[LayerAdapter | None],
    lengths: Sequence[int],
    start: int,
    x_ND: Tensor,
    gate_NF: Tensor,
    up_NF: Tensor,
) -> None:
    """Adds the terms of the rows of several tokens to gate and up, in place."""
    at = start
    for of_row, length in zip(adapter, lengths[start:], strict=True):
        mine = slice(at, at + length)
        if of_row is not None:
            gate_a, gate_b, up_a, up_b, _, _ = of_row
            gate_NF[mine] += nnf.linear(nnf.linear(x_ND[mine], gate_a), gate_b)
            up_NF[mine] += nnf.linear(nnf.linear(x_ND[mine], up_a), up_b)
        at += length


def _add_own_down(
    adapter: Sequence[LayerAdapter | None],
    lengths: Sequence[int],
    start: int,
    h_NF: Tensor,
    out_ND: Tensor,
) -> None:
    """Adds the terms of the rows of several tokens to the MLP's output, in place."""
    at = start
    for of_row, length in zip(adapter, lengths[start:], strict=True):
        if of_row is not None:
            *_, down_a, down_b = of_row
            h = h_NF[at : at + length]
            out_ND[at : at + length] += nnf.linear(nnf.linear(h, down_a), down_b)
        at += length
