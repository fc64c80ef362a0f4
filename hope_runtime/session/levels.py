"""Levels of the Continuum Memory System, as one session has them.

On a frozen backbone a level is low-rank terms beside its MLPs: the effective weight of every MLP
matrix is theta_0 + sum over levels of B A, where A and B belong to one level of one session.
theta_0 is never touched, so a fresh session is the base model bit for bit. In a HOPE model a
level is MLPs of its own, and a session that has changed them has its own weights of them. When and
from what a level learns is the business of learning/, and of models/hope/stream.py.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from hope_runtime.layers.lora import LoraAdapter, tensors_digest
from hope_runtime.session.guards import EMPTY_GUARDS, GuardState
from hope_runtime.session.policy import LevelConfig


@dataclass(frozen=True)
class FullRank:
    """A HOPE model's level's own weights, of every matrix that the level has in the model's order.

    In the dtype of the model. Never changed in place.
    """

    theta: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.theta)

    def tensors(self) -> dict[str, Tensor]:
        """Tensors by name: "theta.0", "theta.1", ..."""
        return {f"theta.{index}": tensor for index, tensor in enumerate(self.theta)}

    def is_finite(self) -> bool:
        """Whether no value is NaN or infinite."""
        return all(bool(tensor.isfinite().all()) for tensor in self.theta)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over the exact bits of the tensors."""
        return tensors_digest(self.tensors())


@dataclass(frozen=True, slots=True)
class Level:
    """One level of one session. `terms` and `weights` are None until it first learns (exactly
    theta_0); then it has one of them, `weights` in a HOPE model."""

    config: LevelConfig
    adapter: LoraAdapter | None = None
    # Count of learnable tokens at its last boundary.
    learnt_through: int = 0
    updates: int = 0
    # Learnable tokens it was taught, over all its updates.
    learnt_tokens: int = 0
    # Mean loss of the spans taught last, nats per token.
    surprise_before_nats: float | None = None
    surprise_after_nats: float | None = None
    weights: FullRank | None = None
    guard: GuardState = EMPTY_GUARDS

    @property
    def learnt(self) -> LoraAdapter | FullRank | None:
        """Adapter or weights that it has learnt; None while it is at theta_0."""
        return self.weights if self.adapter is None else self.adapter

    def digest(self) -> bytes:
        """SHA-256 over counters and the exact bits of the stored tensors."""
        counters = f"{self.learnt_through}:{self.updates}:{self.learnt_tokens}:"
        # Only what the future depends on; absent from levels that no guard ever met.
        if self.guard.rejections or self.guard.frozen:
            counters += f"{self.guard.rejections}:{self.guard.frozen}:"
        learnt = b"" if self.learnt is None else self.learnt.digest
        return hashlib.sha256(counters.encode() + learnt).digest()
