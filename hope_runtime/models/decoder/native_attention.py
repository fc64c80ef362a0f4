"""Attention of batched rows by compiled kernels, which read and write the caches where they lie.

Shape suffixes: B rows of one token, N tokens of all rows, H query heads, G key/value heads, K head
width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hope_runtime.layers.kernels.native import CacheAddresses, Integers, NativeKernels
from hope_runtime.models.decoder.attention import RowAttention, RowInput, check_rows, turns_at
from hope_runtime.models.decoder.weights import BaseModel


class NativeRowAttention:
    """Does what RowAttention does, for rows of which the first B have one token.

    The longer rows behind them are RowAttention's.
    """

    def __init__(
        self, model: BaseModel, rows: Sequence[RowInput], B: int, kernels: NativeKernels
    ) -> None:
        check_rows(model, rows)
        config = model.config
        caches = [row.cache for row in rows[:B]]
        self._kernels = kernels
        self._B = B
        self._heads = (config.n_heads, config.n_kv_heads, config.head_dim)
        self._scale = config.attention_scale or config.head_dim**-0.5
        self._softcap = config.attention_softcap
        self._windows = [0] * config.n_layers
        for layer in config.sliding_layers:
            self._windows[layer] = config.sliding_window
        lengths = [cache.length for cache in caches]
        self._turns = turns_at(model, torch.tensor(lengths, dtype=torch.int64, device=model.device))
        self._caches = CacheAddresses(
            k=Integers.of([cache.k.data_ptr() for cache in caches]),
            v=Integers.of([cache.v.data_ptr() for cache in caches]),
            strides=Integers.of([cache.k.stride(0) for cache in caches]),
            capacities=Integers.of([cache.capacity for cache in caches]),
            lengths=Integers.of(lengths),
        )
        self._long = RowAttention(model, rows[B:]) if len(rows) > B else None

    @staticmethod
    def serves(rows: Sequence[RowInput]) -> bool:
        """Whether the kernels know where the keys stand: at their places in the window."""
        return all(row.cache.positions is None for row in rows)

    def mix(self, layer: int, qkv_NX: Tensor) -> Tensor:
        """Attention of one layer, (N, (H+2G)*K) -> (N, H*K)."""
        H, _, K = self._heads
        qkv_NX = qkv_NX.contiguous()
        mixed = qkv_NX.new_empty(len(qkv_NX), H * K)
        self._kernels.attend(
            qkv_NX[: self._B],
            self._turns[layer],
            mixed,
            heads=self._heads,
            layer=layer,
            caches=self._caches,
            window=self._windows[layer],
            scale=self._scale,
            softcap=self._softcap,
        )
        if self._long is not None:
            mixed[self._B :] = self._long.mix(layer, qkv_NX[self._B :])
        return mixed
