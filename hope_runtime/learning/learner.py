"""The Learner: what a level does at its boundary.

A consolidation is a pure function of memory and boundary: it reads token ids, level state, policy
and seed, never activations of the serving path, and runs one session at a time at fixed shapes,
dtype and thread count. So the result is the same however the text was cut, whatever else was
served, after a restore, a migration or a crash.
"""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from hope_runtime.config import LearningPolicy
from hope_runtime.fold import Boundary, stretch
from hope_runtime.learning.forward import ForwardWriter
from hope_runtime.learning.rehearsal import Samples, sample
from hope_runtime.learning.replay import Practised, ReplayRecipe
from hope_runtime.learning.summed_gradient import summed_gradient
from hope_runtime.learning.training import Trainee
from hope_runtime.learning.workers import Workers
from hope_runtime.memory.branch import Branch
from hope_runtime.memory.cms import Level
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
    """Consolidates memories of one base model on `threads` threads, whose number changes no bit.

    `branch` is the trained fast memory beside the model, if there is one.
    """

    def __init__(
        self, model: BaseModel, threads: int | None = None, branch: Branch | None = None
    ) -> None:
        self._model = model
        self._workers = Workers(threads)
        self._recipe = ReplayRecipe(model, self._workers)
        self._writer = None if branch is None else ForwardWriter(model, branch, self._workers)
        # By seed: the base's own samples are the same for every session of a policy.
        self._samples: dict[int, Samples] = {}

    @property
    def width(self) -> int:
        """Threads that learning may use now. To lower it makes learning slower, nothing else."""
        return self._workers.width

    @width.setter
    def width(self, threads: int) -> None:
        self._workers.width = max(1, min(threads, self._workers.count))

    def consolidate(
        self, memory: SessionMemory, boundary: Boundary
    ) -> Generator[None, None, tuple[SessionMemory, Consolidation]]:
        """The memory after `boundary`; yields after each bounded piece of work."""
        started = time.monotonic()
        spans = stretch(memory, boundary)
        practised, trained = Practised(spans, 0.0, 0.0), 0
        if spans and boundary.level == 0 and memory.policy.writes_forward:
            assert self._writer is not None, "a policy that writes forward has something to write"
            memory = yield from self._writer.write(memory, spans)
        if spans and memory.policy.recipe != "none":
            memory, practised, trained = yield from self._learn(memory, boundary, spans)
        level = replace(memory.levels[boundary.level], learnt_through=boundary.position)
        memory = _with_level(memory, boundary.level, level)
        if boundary.level == 0:
            memory = replace(
                memory,
                pending=tuple(span for span in memory.pending if span.end > boundary.position),
                flushes=tuple(at for at in memory.flushes if at > boundary.position),
                buffer=keep_sample((*memory.buffer, *practised.spans), memory.policy),
            )
        report = Consolidation(
            level=boundary.level,
            position=boundary.position,
            spans=len(spans),
            tokens=sum(len(span.ids) for span in spans),
            surprise_before_nats=practised.before_nats,
            surprise_after_nats=practised.after_nats,
            trained_tokens=trained,
            seconds=time.monotonic() - started,
        )
        return memory, report

    def _learn(
        self, memory: SessionMemory, boundary: Boundary, spans: tuple[Span, ...]
    ) -> Generator[None, None, tuple[SessionMemory, Practised, int]]:
        policy, index = memory.policy, boundary.level
        if index and policy.recipe == "replay":
            # What the faster level knows moves here, so it makes room.
            memory = _decayed(memory, index - 1, policy.replay.fast_decay)
        level = memory.levels[index]
        trainee = Trainee(self._model, memory, index, self._workers)
        rate = level.config.learning_rate
        if policy.recipe == "summed_gradient":
            before, after = yield from summed_gradient(trainee, spans, rate)
            practised = Practised(spans, before, after)
        else:
            if policy.seed not in self._samples:
                self._samples[policy.seed] = yield from sample(
                    self._model, self._workers, policy.seed
                )
            taught = {span.start for span in spans}
            practised = yield from self._recipe.practise(
                trainee,
                policy.replay,
                rate,
                spans,
                [span for span in memory.buffer if span.start not in taught],
                self._samples[policy.seed],
                seed=_seed(policy, boundary),
            )
        level = replace(
            level,
            terms=trainee.stored(),
            updates=level.updates + 1,
            learnt_tokens=level.learnt_tokens + sum(len(span.ids) for span in spans),
            surprise_before_nats=practised.before_nats,
            surprise_after_nats=practised.after_nats,
        )
        return _with_level(memory, index, level), practised, trainee.tokens

    def consolidate_now(self, memory: SessionMemory, boundary: Boundary) -> SessionMemory:
        """The memory after `boundary`, in one go."""
        work = self.consolidate(memory, boundary)
        while True:
            try:
                next(work)
            except StopIteration as end:
                result: tuple[SessionMemory, Consolidation] = end.value
                return result[0]


def keep_sample(spans: Sequence[Span], policy: LearningPolicy) -> tuple[Span, ...]:
    """A bounded sample of what was learnt, in order: spans with cues, surprising ones likelier.

    Weighted reservoir sampling (Efraimidis and Spirakis, 2006) with keys drawn from the spans'
    places in the stream, so that the sample is a function of the log and not of when it was cut.
    """
    if policy.recipe != "replay":
        return ()
    candidates = [span for span in spans if span.cues]
    ranked = sorted(candidates, key=lambda span: _reservoir_key(span, policy.seed), reverse=True)
    kept, tokens = [], 0
    for span in ranked:
        tokens += len(span.ids)
        if tokens > policy.replay.buffer_tokens:
            break
        kept.append(span)
    return tuple(sorted(kept, key=lambda span: span.start))


def _reservoir_key(span: Span, seed: int) -> float:
    uniform = random.Random(f"{seed}:{span.start}").random()
    return math.log(max(uniform, 1e-12)) / max(span.surprise_nats or 0.0, 1e-3)


def _seed(policy: LearningPolicy, boundary: Boundary) -> int:
    digest = hashlib.sha256(f"{policy.seed}:{boundary.level}:{boundary.position}".encode())
    return int.from_bytes(digest.digest()[:8], "little")


def _with_level(memory: SessionMemory, index: int, level: Level) -> SessionMemory:
    levels = (*memory.levels[:index], level, *memory.levels[index + 1 :])
    return replace(memory, levels=levels)


def _decayed(memory: SessionMemory, index: int, factor: float) -> SessionMemory:
    level = memory.levels[index]
    if level.terms is None:
        return memory
    return _with_level(memory, index, replace(level, terms=level.terms.scaled(factor)))
