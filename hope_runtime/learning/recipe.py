"""The seam between the Learner and the ways in which a level learns.

A recipe trains one level on one stretch of the log. The Learner, its guards, the reservoir and the
evaluations know recipes by this interface alone; the table of them is in recipes/, their settings
belong to the policy (config.py). A new recipe is one module and one line of that table.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias, TypeVar

from hope_runtime.layers.lora import LoraAdapter
from hope_runtime.learning.base_samples import BaseSamples, sample
from hope_runtime.learning.level_trainer import LevelTrainer
from hope_runtime.learning.sample_cache import SampleCache
from hope_runtime.learning.workers import Workers
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.budget import Allowance
from hope_runtime.session.memory import Span
from hope_runtime.session.policy import LearningPolicy

_Result = TypeVar("_Result")
Work: TypeAlias = Generator[float | None, None, _Result]
"""Bounded pieces of work with a result. Each piece yields the share of the training that is done,
0 to 1, or None where that cannot be told."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Everything that a recipe may read for one consolidation.

    `spans` are to be learnt, `buffer` are those of the session's rehearsal buffer that are not
    among them. `before` are all levels' terms as they were, in the model's dtype; None for the
    frozen base. `nats` are what `surprises` gave for these spans, where it was asked already.
    `allowance` is what practice of documents may cost, None where nothing limits it; `may_wait`
    says that the level sees again what is left waiting.
    """

    spans: Sequence[Span]
    buffer: Sequence[Span]
    policy: LearningPolicy
    learning_rate: float
    seed: int
    before: LoraAdapter | None = None
    nats: Sequence[float] | None = None
    allowance: Allowance | None = None
    may_wait: bool = False


@dataclass(frozen=True, slots=True)
class Superseded:
    """One statement that took the place of another: where the spans of the new and of the old one
    begin, in learnable tokens."""

    by: int
    start: int


@dataclass(frozen=True, slots=True)
class LevelResult:
    """Result of training one level on a stretch: its spans with what was found out about them, and
    the mean nats per token of their texts before and after.

    Spans of the buffer that `superseded` names are no longer rehearsed. `waiting` are spans that
    are learnt at a later boundary. `statements` counts what was practised, `document_share` is the
    share of documents in it. `seconds` is wall time by phase, which is not a fact of the content.
    """

    spans: tuple[Span, ...]
    before_nats: float
    after_nats: float
    superseded: tuple[Superseded, ...] = ()
    waiting: tuple[Span, ...] = ()
    statements: int = 0
    document_share: float = 0.0
    seconds: Mapping[str, float] = field(default_factory=dict)


class Recipe(Protocol):
    """One way in which a level learns a stretch. One object serves all sessions of a base model."""

    def train(self, trainer: LevelTrainer, stretch: Stretch) -> Work[LevelResult]:
        """Trains `trainee` on a stretch. Raises DivergedStateError."""
        ...

    def surprises(self, trainer: LevelTrainer, spans: Sequence[Span]) -> Work[list[float]]:
        """Mean nats per token of each span's text alone, under the trainee as it is."""
        ...


class Resources:
    """Resources that the recipes of one base model share: the model, worker threads, and the base's
    own samples, written once. `directory` keeps what the base writes for the next process."""

    def __init__(self, model: BaseModel, workers: Workers, directory: Path | None = None) -> None:
        self.model = model
        self.workers = workers
        self.directory = directory
        self.kept = SampleCache(model, workers, directory)
        self._samples: dict[int, BaseSamples] = {}

    def samples(self, seed: int) -> Work[BaseSamples]:
        """The base's own samples, the same for every session of a policy with this seed."""
        if seed not in self._samples:
            found = yield from sample(self.model, self.workers, self.kept, seed)
            self._samples[seed] = found
        return self._samples[seed]


class PhaseClock:
    """Wall time of a consolidation by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.monotonic()

    def ends(self, phase: str) -> None:
        """Count the time since the last mark as `phase`."""
        now = time.monotonic()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._began
        self._began = now
