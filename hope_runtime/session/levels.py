"""Levels of the Continuum Memory System, as one session has them.

On a frozen backbone a level is low-rank terms beside its MLPs: the effective weight of every MLP
matrix is theta_0 + sum over levels of B A, where A and B belong to one level of one session.
theta_0 is never touched, so a fresh session is the base model bit for bit. In a native model a
level is MLPs of its own, and a session that has changed them has its own weights of them. When and
from what a level learns is the business of learning/, and of native/stream.py.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property

import torch
from torch import Tensor

from hope_runtime.session.guards import NEVER, GuardState
from hope_runtime.session.policy import LevelConfig, ModelConfig

# L layers, R rank, D width of the model, F width of the MLP.
STORED_DTYPE = torch.bfloat16


@dataclass(frozen=True)
class LowRank:
    """Terms B A for the gate, up and down matrices of all layers.

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
        return self.gate_a.shape[1]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def tensors(self) -> dict[str, Tensor]:
        """The six tensors by name, in declaration order."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    def to(self, dtype: torch.dtype) -> LowRank:
        return LowRank(**{name: tensor.to(dtype) for name, tensor in self.tensors().items()})

    def scaled(self, factor: float) -> LowRank:
        """The same directions at `factor` of their strength: scales B only."""
        return LowRank(
            **{
                name: tensor * factor if name.endswith("_b") else tensor
                for name, tensor in self.tensors().items()
            }
        )

    def is_finite(self) -> bool:
        return all(bool(tensor.isfinite().all()) for tensor in self.tensors().values())

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over the exact bits of the tensors."""
        return _digest(self.tensors())

    def norm(self) -> float:
        """Frobenius norm of all B A together, without forming one: tr(AᵀBᵀBA) = <BᵀB, AAᵀ>."""
        total = 0.0
        for matrix in ("gate", "up", "down"):
            a = getattr(self, f"{matrix}_a").float()
            b = getattr(self, f"{matrix}_b").float()
            total += float(((b.mT @ b) * (a @ a.mT)).sum())
        return math.sqrt(max(total, 0.0))


@dataclass(frozen=True)
class FullRank:
    """A native level's own weights, of every matrix that the level has in the model's order.

    In the dtype of the model. Never changed in place.
    """

    theta: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.theta)

    def tensors(self) -> dict[str, Tensor]:
        """By name: "theta.0", "theta.1", ..."""
        return {f"theta.{index}": tensor for index, tensor in enumerate(self.theta)}

    def is_finite(self) -> bool:
        return all(bool(tensor.isfinite().all()) for tensor in self.theta)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over the exact bits of the tensors."""
        return _digest(self.tensors())


def _digest(tensors: dict[str, Tensor]) -> bytes:
    sha = hashlib.sha256()
    for tensor in tensors.values():
        sha.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return sha.digest()


def shapes(config: ModelConfig, rank: int) -> dict[str, tuple[int, int, int]]:
    """Shape of each tensor of a LowRank of this model."""
    layers, width, inner = config.n_layers, config.d_model, config.d_ff
    return {
        "gate_a": (layers, rank, width),
        "gate_b": (layers, inner, rank),
        "up_a": (layers, rank, width),
        "up_b": (layers, inner, rank),
        "down_a": (layers, rank, inner),
        "down_b": (layers, width, rank),
    }


def initial(config: ModelConfig, rank: int, seed: int) -> LowRank:
    """A random with unit expected column norm, B zero: no effect until B has learnt. float32."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes(config, rank).items():
        if name.endswith("_a"):
            tensors[name] = torch.randn(shape, generator=generator) / math.sqrt(shape[-1])
        else:
            tensors[name] = torch.zeros(shape)
    return LowRank(**tensors)


def concatenate(terms: Iterable[LowRank | None]) -> LowRank | None:
    """One term with the sum of the ranks and the sum of the effects; None when all are absent."""
    present = [term for term in terms if term is not None]
    if len(present) < 2:
        return present[0] if present else None
    parts = [term.tensors() for term in present]
    return LowRank(
        **{
            name: torch.cat([part[name] for part in parts], dim=1 if name.endswith("_a") else 2)
            for name in parts[0]
        }
    )


@dataclass(frozen=True, slots=True)
class Level:
    """One level of one session. `terms` and `weights` are None until it first learns (exactly
    theta_0); then it has one of them, `weights` in a native model."""

    config: LevelConfig
    terms: LowRank | None = None
    # Count of learnable tokens at its last boundary.
    learnt_through: int = 0
    updates: int = 0
    # Learnable tokens it was taught, over all its updates.
    learnt_tokens: int = 0
    # Mean loss of the spans taught last, nats per token.
    surprise_before_nats: float | None = None
    surprise_after_nats: float | None = None
    weights: FullRank | None = None
    guard: GuardState = NEVER

    @property
    def learnt(self) -> LowRank | FullRank | None:
        """What it has learnt; None while it is at theta_0."""
        return self.weights if self.terms is None else self.terms

    def digest(self) -> bytes:
        """SHA-256 over counters and the exact bits of the stored tensors."""
        counters = f"{self.learnt_through}:{self.updates}:{self.learnt_tokens}:"
        # Only what the future depends on; absent from levels that no guard ever met.
        if self.guard.rejections or self.guard.frozen:
            counters += f"{self.guard.rejections}:{self.guard.frozen}:"
        learnt = b"" if self.learnt is None else self.learnt.digest
        return hashlib.sha256(counters.encode() + learnt).digest()
