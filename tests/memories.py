"""What tests of the fold share: a quick policy, records by hand, a learner without tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hope_runtime.session.fold import Boundary, due, observe, stretch
from hope_runtime.session.log import Record, RecordKind, Segment, Speaker
from hope_runtime.session.memory import SessionMemory, Span
from hope_runtime.session.policy import LearningPolicy, LevelConfig, SpecificConfig

WINDOW = 64

POLICY = LearningPolicy(
    name="quick",
    levels=(
        LevelConfig(period_tokens=32, rank=4, learning_rate=1e-2),
        LevelConfig(period_tokens=64, rank=2, learning_rate=1e-2),
        LevelConfig(period_tokens=128, rank=1, learning_rate=1e-2),
    ),
    recipe="summed_gradient",
)

SPECIFIC_POLICY = LearningPolicy(
    name="small",
    levels=(
        LevelConfig(period_tokens=64, rank=4, learning_rate=5e-3),
        LevelConfig(period_tokens=128, rank=2, learning_rate=5e-3),
    ),
    recipe="specific_replay",
    specific=SpecificConfig(
        steps=4, least_steps=2, outer_directions=8, inner_directions=8, buffer_tokens=60
    ),
)

Spans = Sequence[tuple[int, ...]]


def spans_of(*sizes: int, start: int = 0) -> list[tuple[int, ...]]:
    """Spans of these lengths, over ids that count on from `start` so that each is different."""
    spans = []
    for size in sizes:
        spans.append(tuple(range(start, start + size)))
        start += size
    return spans


def document(spans: Spans, *, ended: bool = False, learn: bool = True, name: str = "d") -> Record:
    segments = (Segment(Speaker.DOCUMENT, tuple(spans), learn),) if spans else ()
    return Record(RecordKind.DOCUMENT, "default", segments, document=name, ended=ended)


def turn(user: Spans, *, learn: bool = True, conversation: str = "default") -> Record:
    segments = (
        Segment(Speaker.TEMPLATE, ((1, 2, 3),)),
        Segment(Speaker.USER, tuple(user), learn),
        Segment(Speaker.ASSISTANT, ((9, 9, 2),)),
    )
    return Record(RecordKind.TURN, conversation, segments)


@dataclass
class Ledger:
    """Keeps the Learner's books without teaching anything; says in `served` what was due."""

    served: list[tuple[Boundary, tuple[Span, ...]]] = field(default_factory=list)

    @property
    def boundaries(self) -> list[tuple[int, int]]:
        return [(boundary.level, boundary.position) for boundary, _ in self.served]

    def consolidate_now(self, memory: SessionMemory, boundary: Boundary) -> SessionMemory:
        spans = stretch(memory, boundary)
        self.served.append((boundary, spans))
        level = memory.levels[boundary.level]
        level = replace(
            level,
            learnt_through=boundary.position,
            updates=level.updates + bool(spans),
            learnt_tokens=level.learnt_tokens + sum(len(span.ids) for span in spans),
        )
        levels = list(memory.levels)
        levels[boundary.level] = level
        memory = replace(memory, levels=tuple(levels))
        if boundary.level:
            return memory
        return replace(
            memory,
            pending=tuple(span for span in memory.pending if span.end > boundary.position),
            flushes=tuple(at for at in memory.flushes if at > boundary.position),
        )


def fresh(policy: LearningPolicy = POLICY) -> SessionMemory:
    return SessionMemory.fresh("base", policy)


def seen(*records: Record, memory: SessionMemory | None = None) -> SessionMemory:
    """The memory after the records, with nothing learnt that they made due."""
    memory = memory or fresh()
    for record in records:
        memory = observe(memory, record, window_tokens=WINDOW)
    return memory


def caught_up(memory: SessionMemory, learner: Ledger) -> SessionMemory:
    while (boundary := due(memory)) is not None:
        memory = learner.consolidate_now(memory, boundary)
    return memory
