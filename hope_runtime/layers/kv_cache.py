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
    of the keys where they are not their places, for attention that slides. Not differentiable:
    fill it under torch.inference_mode or torch.no_grad, and stay with the one in which it was made.
    """

    __slots__ = ("k", "k_layers", "length", "positions", "v", "v_layers")
    k: Tensor
    v: Tensor
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
        self._hold(torch.empty((2, *shape), dtype=dtype, device=device))

    @classmethod
    def pool(
        cls,
        config: ModelConfig,
        count: int,
        *,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> list[KVCache]:
        """`count` caches of one row each in one allocation, which either succeeds now or never."""
        shape = (count, 2, config.n_layers, 1, config.n_kv_heads, capacity, config.head_dim)
        storage = torch.empty(shape, dtype=dtype, device=device)
        caches = [cls.__new__(cls) for _ in range(count)]
        for cache, part in zip(caches, storage, strict=True):
            cache._hold(part)
        return caches

    def _hold(self, storage: Tensor) -> None:
        self.k, self.v = storage
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
        return values * torch.empty(0, dtype=dtype).element_size()

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
