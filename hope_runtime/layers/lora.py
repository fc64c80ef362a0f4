"""Low-rank adapters beside the MLP matrices of a frozen decoder: W + B A for gate, up and down.

Knows their tensors, how they are made, joined and split by layer. Whose they are and when they
learn is the business of session/levels.py and of learning/.

Shape suffixes: L layers, R rank, D model width, F mlp width.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from hope_runtime.layers.config import ModelConfig

# L layers, R rank, D width of the model, F width of the MLP.
STORED_DTYPE = torch.bfloat16


class AdapterTensors(Protocol):
    """Tensors of an adapter: the effective weight of an MLP matrix is W + B @ A.

    In the dtype and on the device of the base weights. gate_a and up_a (L, R, D), gate_b and up_b
    (L, F, R), down_a (L, R, F), down_b (L, D, R).
    """

    @property
    def gate_a(self) -> Tensor: ...
    @property
    def gate_b(self) -> Tensor: ...
    @property
    def up_a(self) -> Tensor: ...
    @property
    def up_b(self) -> Tensor: ...
    @property
    def down_a(self) -> Tensor: ...
    @property
    def down_b(self) -> Tensor: ...


LayerAdapter = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""One layer of an adapter: gate_a, gate_b, up_a, up_b, down_a, down_b without their L."""


def split_layers(adapter: AdapterTensors) -> list[LayerAdapter]:
    """The adapter layer by layer, as views; one unbind a tensor rather than one index a layer."""
    return list(
        zip(
            adapter.gate_a.unbind(0),
            adapter.gate_b.unbind(0),
            adapter.up_a.unbind(0),
            adapter.up_b.unbind(0),
            adapter.down_a.unbind(0),
            adapter.down_b.unbind(0),
            strict=True,
        )
    )


@dataclass(frozen=True)
class LoraAdapter:
    """Low-rank terms B A beside the gate, up and down matrices of all layers.

    a: (L, R, in), b: (L, out, R). bfloat16 as stored, the model's dtype as served, float32 while
    they learn. The tensors are never changed in place once the object is shared.
    """

    gate_a: Tensor  # (L, R, D)
    gate_b: Tensor  # (L, F, R)
    up_a: Tensor  # (L, R, D)
    up_b: Tensor  # (L, F, R)
    down_a: Tensor  # (L, R, F)
    down_b: Tensor  # (L, D, R)

    @property
    def rank(self) -> int:
        """R."""
        return self.gate_a.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of the six tensors."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def tensors(self) -> dict[str, Tensor]:
        """The six tensors by name, in declaration order."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    def to(self, dtype: torch.dtype, device: torch.device | str | None = None) -> LoraAdapter:
        """The same adapter in another precision or place; None leaves it on its device."""
        moved = {name: part.to(device, dtype) for name, part in self.tensors().items()}
        return LoraAdapter(**moved)

    def scaled(self, factor: float) -> LoraAdapter:
        """The same directions at `factor` of their strength: scales B only."""
        return LoraAdapter(
            **{
                name: tensor * factor if name.endswith("_b") else tensor
                for name, tensor in self.tensors().items()
            }
        )

    def is_finite(self) -> bool:
        """Whether no value is NaN or infinite."""
        return all(bool(tensor.isfinite().all()) for tensor in self.tensors().values())

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over the exact bits of the tensors."""
        return tensors_digest(self.tensors())

    def norm(self) -> float:
        """Frobenius norm of all B A together, without forming one: tr(AᵀBᵀBA) = <BᵀB, AAᵀ>."""
        total = 0.0
        for matrix in ("gate", "up", "down"):
            a = getattr(self, f"{matrix}_a").float()
            b = getattr(self, f"{matrix}_b").float()
            total += float(((b.mT @ b) * (a @ a.mT)).sum())
        return math.sqrt(max(total, 0.0))


def shapes(config: ModelConfig, rank: int) -> dict[str, tuple[int, int, int]]:
    """Shape of each tensor of a LoraAdapter of this model."""
    layers, width, inner = config.n_layers, config.d_model, config.d_ff
    return {
        "gate_a": (layers, rank, width),
        "gate_b": (layers, inner, rank),
        "up_a": (layers, rank, width),
        "up_b": (layers, inner, rank),
        "down_a": (layers, rank, inner),
        "down_b": (layers, width, rank),
    }


def initial(config: ModelConfig, rank: int, seed: int) -> LoraAdapter:
    """An adapter of no effect until B has learnt: A random with unit expected column norm, B zero.

    float32, on the CPU, the same for the same seed.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes(config, rank).items():
        if name.endswith("_a"):
            tensors[name] = torch.randn(shape, generator=generator) / math.sqrt(shape[-1])
        else:
            tensors[name] = torch.zeros(shape)
    return LoraAdapter(**tensors)


def concatenate(adapter: Iterable[LoraAdapter | None]) -> LoraAdapter | None:
    """One adapter with the sum of the ranks and of the effects; None when all are absent."""
    present = [term for term in adapter if term is not None]
    if len(present) < 2:
        return present[0] if present else None
    parts = [term.tensors() for term in present]
    return LoraAdapter(
        **{
            name: torch.cat([part[name] for part in parts], dim=1 if name.endswith("_a") else 2)
            for name in parts[0]
        }
    )


def tensors_digest(tensors: dict[str, Tensor]) -> bytes:
    """SHA-256 over the exact bits of the tensors, in their order."""
    sha = hashlib.sha256()
    for tensor in tensors.values():
        sha.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return sha.digest()
