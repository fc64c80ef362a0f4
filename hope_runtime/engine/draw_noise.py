"""The random part of a draw from a vocabulary, of which a draw needs little.

A token is drawn as the one whose weight over its noise is the highest. Noise is exponential, a
value for each rank, from a generator of the CPU whatever the device; a seed's meaning hangs on it.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

# Of 64 random bits those that make a double between 0 and 1.
_MANTISSA = (1 << 53) - 1


class DrawNoise:
    """Noise of one draw from `size` tokens: what `exponential_` makes of all ranks.

    Values of the last ranks are hardly ever needed, and cost most of a draw. Where torch makes
    values one by one, the random bits of those are passed over and only their least value is found.
    """

    def __init__(self, generator: torch.Generator, size: int) -> None:
        self._generator = generator
        self._size = size
        self._before = generator.get_state()
        self._used = False

    def first(self, count: int) -> tuple[Tensor, float]:
        """Values of the first ranks, float32 (count,), and a lower bound of all others. The
        generator stands where it does after all values."""
        if not _makes_one_by_one():
            noise_V = self.all()
            rest = noise_V[count:]
            return noise_V[:count], float(rest.min()) if len(rest) else math.inf
        self._rewind()
        noise_N = torch.empty(count).exponential_(generator=self._generator)
        if count == self._size:
            return noise_N, math.inf
        bits = torch.empty(self._size - count, dtype=torch.int64)
        least = int(bits.random_(generator=self._generator).bitwise_and_(_MANTISSA).min())
        # Rounded down: the value itself is rounded to float32.
        return noise_N, -math.log1p(-least / (_MANTISSA + 1)) * (1 - 1e-6)

    def all(self) -> Tensor:
        """All values, float32 (size,); the generator stands behind them."""
        self._rewind()
        return torch.empty(self._size).exponential_(generator=self._generator)

    def _rewind(self) -> None:
        if self._used:
            self._generator.set_state(self._before)
        self._used = True


@cache
def _makes_one_by_one() -> bool:
    """Whether `exponential_` takes 64 bits of the generator for each value, as torch does but with
    MKL on processors of Intel, and makes of them what DrawNoise thinks."""
    one, other = (torch.Generator().manual_seed(1) for _ in range(2))
    values = torch.empty(1024).exponential_(generator=one)
    bits = torch.empty(1024, dtype=torch.int64).random_(generator=other).bitwise_and_(_MANTISSA)
    expected = -torch.log1p(-bits.double() / (_MANTISSA + 1))
    same = torch.equal(one.get_state(), other.get_state())
    return same and torch.allclose(values.double(), expected, rtol=1e-6, atol=0)
