"""The Learner: what a level does at its boundary.

A consolidation is a pure function of memory and boundary: it reads token ids, level state, policy
and seed, never activations of the serving path, and runs one session at a time at fixed shapes,
dtype and thread count. So the result is the same however the text was cut, whatever else was
served, after a restore, a migration or a crash.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from hope_runtime.fold import Boundary, stretch
from hope_runtime.learning.summed_gradient import summed_gradient
from hope_runtime.learning.training import Trainee
from hope_runtime.memory.state import SessionMemory, Span
from hope_runtime.model.weights import BaseModel


@dataclass(frozen=True, slots=True)
class Consolidation:
    """What one level did at one boundary.

    Surprises are mean nats per token of the spans it taught, before and after; `trained_tokens`
    counts every token run forward and backward, rehearsal included; `seconds` is wall time.
    """

    level: int
    position: int
    spans: int
    tokens: int
    surprise_before_nats: float
    surprise_after_nats: float
    trained_tokens: int
    seconds: float

    def notes(self) -> dict[str, Any]:
        """The figures for the log; without the wall time, which is not a fact of the content."""
        figures = asdict(self)
        del figures["seconds"]
        return figures


class Learner:
    """Consolidates memories of one base model."""

    def __init__(self, model: BaseModel) -> None:
        self._model = model

    def consolidate(
        self, memory: SessionMemory, boundary: Boundary
    ) -> Generator[None, None, tuple[SessionMemory, Consolidation]]:
        """The memory after `boundary`; yields after each bounded piece of work."""
        started = time.monotonic()
        spans = stretch(memory, boundary)
        level = memory.levels[boundary.level]
        before, after, trained = 0.0, 0.0, 0
        taught: Sequence[Span] = ()
        if spans:
            trainee = Trainee(self._model, memory, boundary.level)
            taught = spans
            rate = level.config.learning_rate
            before, after = yield from summed_gradient(trainee, spans, rate)
            trained = trainee.tokens
            level = replace(
                level,
                terms=trainee.stored(),
                updates=level.updates + 1,
                learnt_tokens=level.learnt_tokens + sum(len(span.ids) for span in taught),
                surprise_before_nats=before,
                surprise_after_nats=after,
            )
        level = replace(level, learnt_through=boundary.position)
        levels = list(memory.levels)
        levels[boundary.level] = level
        memory = replace(memory, levels=tuple(levels))
        if boundary.level == 0:
            memory = replace(
                memory,
                pending=tuple(span for span in memory.pending if span.end > boundary.position),
                flushes=tuple(at for at in memory.flushes if at > boundary.position),
            )
        report = Consolidation(
            level=boundary.level,
            position=boundary.position,
            spans=len(taught),
            tokens=sum(len(span.ids) for span in taught),
            surprise_before_nats=before,
            surprise_after_nats=after,
            trained_tokens=trained,
            seconds=time.monotonic() - started,
        )
        return memory, report

    def consolidate_now(self, memory: SessionMemory, boundary: Boundary) -> SessionMemory:
        """The memory after `boundary`, in one go."""
        work = self.consolidate(memory, boundary)
        while True:
            try:
                next(work)
            except StopIteration as end:
                result: tuple[SessionMemory, Consolidation] = end.value
                return result[0]
