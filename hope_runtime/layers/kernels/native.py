"""Kernels compiled from rows.cpp, for a CPU that decodes a few rows of one token each.

Rows are independent to the last bit: what a row computes depends neither on the other rows nor on
their number, nor on the number of threads. Not differentiable.

Shape suffixes: B rows, D model width, F MLP width, R rank, H query heads, G key/value heads, K head
width.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hope_runtime.layers.kernels import build
from hope_runtime.layers.kernels.torch_kernels import (
    FEW_TOKENS,
    Kernels,
    TorchKernels,
    TorchRowKernels,
)

_log = logging.getLogger(__name__)
_SUFFIXES = {torch.float32: "f32", torch.bfloat16: "bf16"}
_PLAIN = TorchKernels()
_P, _I, _F = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_ARGUMENTS = {
    "linear": (_P, _P, _P, _I, _I, _I),
    "rms_norm": (_P, _P, _P, _I, _I, _F),
    "gated": (_P, _P, _I, _P, _I, _I, _I),
    "add_low_rank": (_P, _I, _P, _I, _I, _I, _I, _I, _I, _P, _P, _P),
    "attend": (_P, _P, _P, _P, _I, _I, _I, _I, _I, _P, _P, _P, _P, _P, _I, _F, _F),
}


@dataclass(frozen=True, slots=True)
class Integers:
    """Numbers or addresses, one for each row, as the compiled functions take them."""

    array: ctypes.Array[ctypes.c_int64]

    @classmethod
    def of(cls, values: Sequence[int]) -> Integers:
        """An array of `values`."""
        return cls((ctypes.c_int64 * len(values))(*values))


class NativeKernels:
    """Kernels of rows in one dtype. Implements Kernels; more tokens than few go to torch.

    `linear` and the others want contiguous tensors of that dtype on the CPU. `tiles` says they
    multiply 16 rows at the price of one. Raises OSError for a file that cannot be used here.
    """

    def __init__(self, path: Path, dtype: torch.dtype, *, tiles: bool = False) -> None:
        self.tiles = tiles
        loaded = ctypes.CDLL(str(path))
        if not loaded.hope_prepare():
            raise OSError("the system does not lend the processor's registers")
        functions: dict[str, Callable[..., Any]] = {}
        for name, arguments in _ARGUMENTS.items():
            function = getattr(loaded, f"hope_{name}_{_SUFFIXES[dtype]}")
            function.argtypes, function.restype = arguments, None
            functions[name] = function
        self._linear = functions["linear"]
        self._rms_norm = functions["rms_norm"]
        self._gated = functions["gated"]
        self._add_low_rank = functions["add_low_rank"]
        self._attend = functions["attend"]

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """See Kernels.linear; x is (B, in)."""
        rows, inputs = x.shape
        if rows > FEW_TOKENS or not weight.is_contiguous():
            return _PLAIN.linear(x, weight, bias)
        outputs = weight.shape[0]
        x = x.contiguous()
        out = x.new_empty(rows, outputs)
        self._linear(x.data_ptr(), weight.data_ptr(), out.data_ptr(), rows, inputs, outputs)
        return out if bias is None else out.add_(bias)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See Kernels.rms_norm."""
        width = x.shape[-1]
        rows = x.numel() // width
        if rows > FEW_TOKENS:
            return _PLAIN.rms_norm(x, weight, eps)
        x = x.contiguous()
        out = torch.empty_like(x)
        self._rms_norm(x.data_ptr(), weight.data_ptr(), out.data_ptr(), rows, width, eps)
        return out

    def gated(self, gate: Tensor, up: Tensor, activation: str) -> Tensor:
        """See Kernels.gated; both are (B, F), and may be halves of one tensor."""
        rows, width = gate.shape
        if rows > FEW_TOKENS or gate.stride() != up.stride() or gate.stride(1) != 1:
            return _PLAIN.gated(gate, up, activation)
        out = gate.new_empty(rows, width)
        gelu = activation != "silu"
        self._gated(
            gate.data_ptr(), up.data_ptr(), gate.stride(0), out.data_ptr(), rows, width, gelu
        )
        return out

    def add_low_rank(
        self,
        x_BI: Tensor,
        out: Tensor,
        *,
        parts: int,
        layer: int,
        ranks: Integers,
        a: Integers,
        b: Integers,
    ) -> None:
        """Add B (A x) of each row's own factors to `out`, (B, parts * outputs), in place.

        `a` and `b` are addresses of each row's (layers, parts * R, inputs) and (layers, parts, R,
        outputs); a row whose rank is 0 stays as it is. Rows of `x_BI` and `out` are contiguous.
        """
        rows, inputs = x_BI.shape
        self._add_low_rank(
            x_BI.data_ptr(), x_BI.stride(0), out.data_ptr(), out.stride(0), rows, inputs,
            out.shape[1] // parts, parts, layer, ranks.array, a.array, b.array,
        )  # fmt: skip

    def attend(
        self,
        qkv: Tensor,
        turns: tuple[Tensor, Tensor],
        out: Tensor,
        *,
        heads: tuple[int, int, int],
        layer: int,
        caches: CacheAddresses,
        window: int,
        scale: float,
        softcap: float,
    ) -> None:
        """Attention of one layer for rows of one token: qkv (B, (H+2G)*K) -> out (B, H*K).

        Turns queries and keys by `turns`, cos and sin of (B, K); stores keys and values behind what
        each cache holds. `heads` is (H, G, K). A row sees its last `window` positions, 0 for all.
        """
        cos, sin = turns
        self._attend(
            qkv.data_ptr(), cos.data_ptr(), sin.data_ptr(), out.data_ptr(), qkv.shape[0], *heads,
            layer, caches.k.array, caches.v.array, caches.strides.array, caches.capacities.array,
            caches.lengths.array, window, scale, softcap,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class CacheAddresses:
    """Caches of keys and values, one a row: addresses of (layers, G, capacity, K), the values from
    one layer to the next, and the positions that are filled."""

    k: Integers
    v: Integers
    strides: Integers
    capacities: Integers
    lengths: Integers


@cache
def native_kernels(dtype: torch.dtype) -> NativeKernels | None:
    """The compiled kernels for this processor; None when there are none for it, or for the dtype,
    or no compiler to make them."""
    variants = build.variants_for(build.processor_flags()) if dtype in _SUFFIXES else []
    for variant in variants:
        # An older compiler may not know the newest processors, nor an older system lend them all.
        path = build.library(variant)
        if path is None:
            continue
        try:
            return NativeKernels(path, dtype, tiles=dtype in variant.tiles)
        except (OSError, AttributeError):
            _log.warning("the compiled kernels in %s cannot be used", path)
    if variants:
        _log.info("no compiled kernels: torch decodes alone, more slowly")
    return None


def row_kernels(dtype: torch.dtype, device: torch.device) -> Kernels:
    """The fastest kernels for a few rows of one token on a device."""
    native = native_kernels(dtype) if device.type == "cpu" else None
    return native or TorchRowKernels()
