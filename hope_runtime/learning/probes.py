"""Probes: the effect of a memory's levels on the base's own samples, which nothing teaches.

A few fixed windows that the frozen base wrote, from a seed that no recipe rehearses, so that they
tell damage and not practice. They are read after each consolidation, off any reply's path; the
figures go into the log beside what was learnt. Writing them costs a few hundred decoded tokens
once for a base and a seed, reading them a few hundred tokens forward for each consolidation.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch

from hope_runtime.learning.base_samples import sample_windows
from hope_runtime.learning.level_trainer import LevelTrainer, finite
from hope_runtime.learning.packing import ROW_TOKENS, Pack, pack
from hope_runtime.learning.reference import Rehearsed, scores
from hope_runtime.learning.sample_cache import SampleCache
from hope_runtime.learning.workers import Workers
from hope_runtime.models.decoder.weights import BaseModel

# Windows, of rehearsal.WINDOW_TOKENS tokens each at most.
PROBES = 8
# Keeps their seeds apart from those of what is rehearsed.
SEED_OFFSET = 0x5EED


@dataclass(frozen=True, slots=True)
class Probed:
    """Mean nats per token on the probes: of the frozen base, and of the adapted model; and
    KL(base || adapted) in nats, the mean over their tokens (learning/reference.py)."""

    frozen_nats: float
    adapted_nats: float
    divergence_nats: float

    @property
    def change_nats(self) -> float:
        """Adapted minus frozen: above 0 is damage."""
        return self.adapted_nats - self.frozen_nats

    @property
    def rise(self) -> float:
        """The change as a share of the frozen base's loss."""
        return self.change_nats / self.frozen_nats if self.frozen_nats else 0.0


@dataclass(frozen=True, slots=True)
class Probes:
    """The texts, each in a pack of its own, and what the frozen base makes of them."""

    windows: Sequence[Rehearsed]
    packs: Sequence[Pack]
    frozen_nats: float

    @torch.no_grad()
    def measure(self, trainer: LevelTrainer) -> Generator[None, None, Probed]:
        """Loss of the level on them as it is now, the other levels beside it. Raises
        DivergedStateError when that is no number."""

        def one(index: int) -> tuple[float, float]:
            with torch.no_grad():
                pack_, window = self.packs[index], self.windows[index]
                logits_NV = trainer.scores(pack_)
                nats = trainer.nats(logits_NV, pack_).sum()
                divergence = window.reference.divergence(logits_NV).sum()
                finite(nats + divergence, "What the probes make of it")
                return float(nats), float(divergence)

        found = trainer.workers.map(one, range(len(self.packs)))
        yield
        tokens = sum(len(each.targets_N) for each in self.packs)
        return Probed(
            self.frozen_nats,
            sum(nats for nats, _ in found) / tokens,
            sum(divergence for _, divergence in found) / tokens,
        )


def write_probes(
    model: BaseModel, workers: Workers, kept: SampleCache, seed: int
) -> Generator[None, None, Probes]:
    """The probes of a base model, deterministic in `seed`; yields on the way."""
    windows = yield from sample_windows(model, workers, kept, seed + SEED_OFFSET, PROBES)
    packs = [pack([window.example], row_tokens=ROW_TOKENS) for window in windows]

    def nats(packed: Pack) -> float:
        with torch.no_grad():
            log_NV = scores(model, packed).log_softmax(-1)
            return -float(log_NV.gather(1, packed.targets_N.to(log_NV.device)[:, None]).sum())

    found = workers.map(nats, packs)
    yield
    tokens = sum(len(each.targets_N) for each in packs)
    return Probes(windows, packs, sum(found) / tokens if tokens else 0.0)
