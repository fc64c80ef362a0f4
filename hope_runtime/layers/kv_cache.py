"""Cache of keys and values of the tokens in a window.

Shape suffixes: L layers, B rows, G key/value heads, K head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hope_runtime.layers.config import ModelConfig


class KVCache:
    """Keys and values of the tokens in a window, preallocated for all layers.

    `k` and `v` are (L, B, G, capacity, K); the first `length` positions are filled, the same
    number in every row. Keys are stored after rotation. `positions`, int64 (B, capacity), are those
    of the keys where they are not their places, for attention that slides. `slot` is its number in
    a KVPool, if it lies in one. Not differentiable:
    fill it under torch.inference_mode or torch.no_grad, and stay with the one in which it was made.
    """

    __slots__ = ("k", "k_layers", "length", "positions", "slot", "v", "v_layers")
    k: Tensor
    v: Tensor
    slot: int | None
    positions: Tensor | None

    def __init__(
        self,
        config: ModelConfig,
        *,
        capacity: int,
        rows: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (config.n_layers, rows, config.n_kv_heads, capacity, config.head_dim)
        k, v = torch.empty((2, *shape), dtype=dtype, device=device)
        self._hold(k, v, None)

    @classmethod
    def of_slot(cls, k: Tensor, v: Tensor, slot: int) -> KVCache:
        """A cache of one row in a slot of a KVPool, which it shares."""
        cache = cls.__new__(cls)
        cache._hold(k, v, slot)
        return cache

    def _hold(self, k: Tensor, v: Tensor, slot: int | None) -> None:
        self.k, self.v, self.slot = k, v, slot
        # Views made once: indexing a layer is a measurable part of decoding a small model.
        self.k_layers = self.k.unbind(0)
        self.v_layers = self.v.unbind(0)
        self.positions = None
        self.length = 0

    @property
    def rows(self) -> int:
        """Rows that the cache holds side by side."""
        return self.k.shape[1]

    @property
    def capacity(self) -> int:
        """Tokens that a row has room for."""
        return self.k.shape[3]

    @property
    def nbytes(self) -> int:
        """Bytes held, filled or not."""
        return self.k.nbytes + self.v.nbytes

    @staticmethod
    def bytes_of(config: ModelConfig, capacity: int, dtype: torch.dtype) -> int:
        """Bytes of a cache of one row."""
        values = 2 * config.n_layers * config.n_kv_heads * config.head_dim * capacity
        return values * dtype.itemsize

    def place(self, positions_BT: Tensor | None, T: int) -> Tensor:
        """Note the positions of the next T tokens, None for their places; gives those of all keys
        up to them, (B or 1, length + T)."""
        stop = self.length + T
        if positions_BT is None and self.positions is None:
            return torch.arange(stop, device=self.k.device)[None]
        places = torch.arange(self.capacity, device=self.k.device)
        if self.positions is None:
            self.positions = places.repeat(self.rows, 1)
        self.positions[:, self.length : stop] = (
            places[self.length : stop] if positions_BT is None else positions_BT
        )
        return self.positions[:, :stop]

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` positions."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot truncate a cache of {self.length} tokens to {length}")
        self.length = length


class KVPool:
    """Caches of `slots` windows in one allocation, which either succeeds now or never.

    `k` and `v` are (L, slots, G, capacity, K), so that one operation reaches the slots of a batch
    by their numbers; `caches` are the same, slot by slot. `zeroed` is for attention over whole
    slots: a mask hides what is not filled, and a mask times NaN is NaN.
    """

    def __init__(
        self,
        config: ModelConfig,
        slots: int,
        *,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device | str,
        zeroed: bool = False,
    ) -> None:
        shape = (2, config.n_layers, slots, config.n_kv_heads, capacity, config.head_dim)
        make = torch.zeros if zeroed else torch.empty
        self.k, self.v = make(shape, dtype=dtype, device=device)
        self.caches = [
            KVCache.of_slot(self.k[:, slot : slot + 1], self.v[:, slot : slot + 1], slot)
            for slot in range(slots)
        ]

    @property
    def capacity(self) -> int:
        """Tokens that a slot has room for."""
        return self.caches[0].capacity
