"""Attention strategies of the decoder block: whole windows, or batched rows over cache slots.

Shape suffixes: B rows, T new tokens, N tokens of all rows, S keys (cached and new), H query heads,
G key/value heads, K head width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from hope_runtime.errors import WindowOverflowError
from hope_runtime.layers.attention import RotaryTable, mix_heads, rotate, turn_heads
from hope_runtime.layers.config import ModelConfig
from hope_runtime.layers.kv_cache import KVCache
from hope_runtime.layers.served_lora import ServedAdapter
from hope_runtime.models.decoder.weights import BaseModel

_Factors = TypeVar("_Factors")


class WindowAttention:
    """Attention over whole windows of B rows, all as long as each other.

    With a cache, new keys and values are stored behind the `cache.length` old ones and both are
    attended to; the caller advances `cache.length` once all layers are done. Not differentiable
    then. Without one, differentiable.

    `mask_BTS` (bool, True where a token may look) replaces the causal rule. `positions_BT` (int64)
    default to the tokens' place in the window. Raises WindowOverflowError when the cache or the
    model's positions do not hold T more tokens.
    """

    def __init__(
        self,
        model: BaseModel,
        T: int,
        *,
        cache: KVCache | None,
        positions_BT: Tensor | None,
        mask_BTS: Tensor | None,
    ) -> None:
        self._config = config = model.config
        self._cache = cache
        self._start = start = 0 if cache is None else cache.length
        if cache is not None:
            _check_capacity(cache, T)
        self._turns = _of_layers(
            model.rotaries,
            lambda table: table.run(start, T) if positions_BT is None else table.at(positions_BT),
        )
        bias = _score_bias(mask_BTS, start, T, model.dtype, model.device)
        self._biases = [bias] * config.n_layers
        if config.sliding_window:
            places_BS = _positions(cache, positions_BT, T, model.device)
            if places_BS.shape[1] > config.sliding_window:
                near = _near_bias(bias, places_BS, T, config.sliding_window, model.dtype)
                for layer in config.sliding_layers:
                    self._biases[layer] = near

    def mix(self, layer: int, qkv_BTX: Tensor) -> Tensor:
        """Attention of one layer, (B, T, (H+2G)*K) -> (B, T, H*K)."""
        q_BHTK, k_BGSK, v_BGSK = turn_heads(self._config, qkv_BTX, *self._turns[layer])
        if self._cache is not None:
            start, stop = self._start, self._start + qkv_BTX.shape[1]
            k_all, v_all = self._cache.k_layers[layer], self._cache.v_layers[layer]
            k_all[:, :, start:stop] = k_BGSK
            v_all[:, :, start:stop] = v_BGSK
            if start:
                k_BGSK, v_BGSK = k_all[:, :, :stop], v_all[:, :, :stop]
        bias = self._biases[layer]
        return mix_heads(
            q_BHTK,
            k_BGSK,
            v_BGSK,
            causal=bias is None and qkv_BTX.shape[1] > 1,
            bias=bias,
            scale=self._config.attention_scale,
            softcap=self._config.attention_softcap,
        )


@dataclass(frozen=True, slots=True)
class RowInput:
    """Token ids that one row reads next, behind what its cache (of one row) holds.

    `adapter` is its session's, in the dtype of the weights; None is the frozen base.
    """

    ids: tuple[int, ...]
    cache: KVCache
    adapter: ServedAdapter | None = None


class RowAttention:
    """Attention of rows of different sessions, each over its own cache at its own position.

    Not differentiable. Raises WindowOverflowError, before anything was computed, when a cache or
    the model's positions do not hold a row's tokens.
    """

    def __init__(self, model: BaseModel, rows: Sequence[RowInput]) -> None:
        check_rows(model, rows)
        self._config: ModelConfig = model.config
        self._lengths = [len(row.ids) for row in rows]
        places = [row.cache.length + index for row in rows for index in range(len(row.ids))]
        self._turns = turns_at(model, torch.tensor(places, device=model.device))
        biases = [
            _causal_bias(row.cache.length, len(row.ids), model.dtype, model.device) for row in rows
        ]
        self._biases = [biases] * model.config.n_layers
        if width := model.config.sliding_window:
            near = list(biases)
            for index, row in enumerate(rows):
                T = len(row.ids)
                if row.cache.length + T > width:
                    places_1S = row.cache.place(None, T)
                    near[index] = _near_bias(biases[index], places_1S, T, width, model.dtype)
            for layer in model.config.sliding_layers:
                self._biases[layer] = near
        self._views = [_CacheViews(row.cache, len(row.ids)) for row in rows]

    def mix(self, layer: int, qkv_NX: Tensor) -> Tensor:
        """Attention of one layer, (N, (H+2G)*K) -> (N, H*K)."""
        H, G, K = self._config.n_heads, self._config.n_kv_heads, self._config.head_dim
        # Fused attention kernels need contiguous heads.
        heads_NXK = qkv_NX.contiguous().view(-1, H + 2 * G, K)
        turned = rotate(heads_NXK[:, : H + G], *self._turns[layer])
        q_rows = torch.split(turned[:, :H], self._lengths)
        k_rows = torch.split(turned[:, H:], self._lengths)
        v_rows = torch.split(heads_NXK[:, H + G :], self._lengths)
        scale, softcap = self._config.attention_scale, self._config.attention_softcap
        mixed = []
        for q_THK, k_TGK, v_TGK, views, bias in zip(
            q_rows, k_rows, v_rows, self._views, self._biases[layer], strict=True
        ):
            views.new_k[layer].copy_(k_TGK.transpose(0, 1))
            views.new_v[layer].copy_(v_TGK.transpose(0, 1))
            q_1HTK = q_THK.transpose(0, 1)[None]
            keys, values = views.all_k[layer], views.all_v[layer]
            mixed.append(
                mix_heads(
                    q_1HTK, keys, values, causal=False, bias=bias, scale=scale, softcap=softcap
                )
            )
        return torch.cat(mixed, dim=1)[0]


class _CacheViews:
    """Views into one row's cache, one for each layer: the places of the new keys and values, and
    everything that the row attends to.

    Made once for all layers: with many rows of one token, making views is a measurable part of a
    step.
    """

    def __init__(self, cache: KVCache, T: int) -> None:
        start, stop = cache.length, cache.length + T
        self.new_k = cache.k[:, 0, :, start:stop].unbind(0)  # (G, T, K) each
        self.new_v = cache.v[:, 0, :, start:stop].unbind(0)
        self.all_k = cache.k[:, :, :, :stop].unbind(0)  # (1, G, S, K) each
        self.all_v = cache.v[:, :, :, :stop].unbind(0)


def check_rows(model: BaseModel, rows: Sequence[RowInput]) -> None:
    """Raise WindowOverflowError when a cache or the model's positions do not hold a row."""
    known = model.config.max_positions
    for row in rows:
        _check_capacity(row.cache, len(row.ids))
        if (stop := row.cache.length + len(row.ids)) > known:
            raise WindowOverflowError(f"{stop} tokens exceed the {known} positions of the model")


def turns_at(model: BaseModel, positions_N: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Rotary factors of each layer at N positions, int64: cos and sin of (N, 1, K)."""

    def factors(table: RotaryTable) -> tuple[Tensor, Tensor]:
        cos, sin = table.at(positions_N[None])
        return cos[0], sin[0]

    return _of_layers(model.rotaries, factors)


def _of_layers(
    tables: Sequence[RotaryTable], factors: Callable[[RotaryTable], _Factors]
) -> list[_Factors]:
    """The rotary factors of every layer, taken once from each table."""
    made = {id(table): factors(table) for table in {id(each): each for each in tables}.values()}
    return [made[id(table)] for table in tables]


def _positions(
    cache: KVCache | None, positions_BT: Tensor | None, T: int, device: torch.device
) -> Tensor:
    """Positions of all keys of a window, cached and new, (B or 1, S)."""
    if cache is not None:
        return cache.place(positions_BT, T)
    return torch.arange(T, device=device)[None] if positions_BT is None else positions_BT


def _near_bias(
    bias: Tensor | None, places_BS: Tensor, T: int, width: int, dtype: torch.dtype
) -> Tensor:
    """Addend of the scores of T new tokens, (B or 1, 1, T, S), where each sees at most the last
    `width` positions, its own included, of what `bias` lets it see; None is the causal rule."""
    S = places_BS.shape[1]
    near_BTS = places_BS[:, S - T :, None] - places_BS[:, None] < width
    if bias is None:
        near_BTS = near_BTS.tril(S - T)
    near = as_bias(near_BTS.unsqueeze(1), dtype)
    return near if bias is None else near + bias


def _check_capacity(cache: KVCache, T: int) -> None:
    """Raise WindowOverflowError when a cache does not hold T more tokens."""
    stop = cache.length + T
    if stop > cache.capacity:
        raise WindowOverflowError(f"{stop} tokens exceed the cache capacity of {cache.capacity}")


def _score_bias(
    mask_BTS: Tensor | None, start: int, T: int, dtype: torch.dtype, device: torch.device
) -> Tensor | None:
    """Addend of the attention scores, (.., T, S); None where the plain causal kernel serves.

    Made once for all layers: the attention kernel would convert a boolean mask at each of them.
    """
    if mask_BTS is not None:
        return as_bias(mask_BTS.unsqueeze(1), dtype)
    return None if start == 0 else _causal_bias(start, T, dtype, device)


def _causal_bias(start: int, T: int, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """Causal addend of T tokens behind `start` others, (T, start + T); None for a single token."""
    if T == 1:
        return None
    allowed = torch.ones(T, start + T, dtype=torch.bool, device=device).tril(start)
    return as_bias(allowed, dtype)


def as_bias(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """Addend of attention scores, of the shape of `allowed`: 0 where that is True, else -inf."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(
        ~allowed, float("-inf")
    )
