"""The Learner: what a level does at its boundary.

A consolidation is a pure function of memory and boundary: it reads token ids, level state, policy
and seed, never activations of the serving path, and runs one session at a time at fixed shapes,
dtype and thread count. So the result is the same however the text was cut, whatever else was
served, after a restore, a migration or a crash.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from hope_runtime.errors import DivergedStateError
from hope_runtime.learning.clip_update import within
from hope_runtime.learning.consolidation import Consolidation
from hope_runtime.learning.drift import LevelDrift, base_norm, level_drift
from hope_runtime.learning.level_trainer import LevelTrainer
from hope_runtime.learning.probes import Probed, Probes, write_probes
from hope_runtime.learning.recipe import LevelResult, Recipe, Resources, Stretch, Work
from hope_runtime.learning.recipes import RECIPES
from hope_runtime.learning.recipes.fast_memory_writer import FastMemoryWriter
from hope_runtime.learning.recipes.replay.reservoir import keep_sample
from hope_runtime.learning.workers import Workers
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.fast_memory.weights import FastMemory
from hope_runtime.session.fold import Boundary, stretch
from hope_runtime.session.guards import Event, Guard, GuardState
from hope_runtime.session.levels import Level
from hope_runtime.session.memory import SessionMemory, Span
from hope_runtime.session.policy import LearningPolicy
from hope_runtime.steps import at_once

NOTHING_PRACTISED = LevelResult((), 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """Result of training one level on a range of spans. The figures are None where nothing was
    learnt."""

    memory: SessionMemory
    practised: LevelResult
    trained_tokens: int = 0
    drift: LevelDrift | None = None
    probed: Probed | None = None
    events: tuple[Event, ...] = ()

    def guarded(self, index: int, state: GuardState) -> _Outcome:
        """With what the level's guards remember now."""
        level = replace(self.memory.levels[index], guard=state)
        return replace(self, memory=_with_level(self.memory, index, level), events=state.events)


class Learner:
    """Consolidates memories of one base model on `threads` threads, whose number changes no bit.

    `fast_memory` is the trained one beside the model, if there is one; `kept` is the directory of
    what the base writes by itself, kept for the next process.
    """

    def __init__(
        self,
        model: BaseModel,
        threads: int | None = None,
        fast_memory: FastMemory | None = None,
        kept: Path | None = None,
    ) -> None:
        self._model = model
        self._workers = Workers(threads)
        self._resources = Resources(model, self._workers, kept)
        self._recipes: dict[str, Recipe] = {}
        self._writer = (
            None if fast_memory is None else FastMemoryWriter(model, fast_memory, self._workers)
        )
        # By seed: the probes are the same for every session of a policy.
        self._probes: dict[int, Probes] = {}

    @cached_property
    def _base_norm(self) -> float:
        return base_norm(self._model)

    @property
    def width(self) -> int:
        """Threads that learning may use now. To lower it makes learning slower, nothing else."""
        return self._workers.width

    @width.setter
    def width(self, threads: int) -> None:
        self._workers.width = max(1, min(threads, self._workers.count))

    def consolidate(
        self, memory: SessionMemory, boundary: Boundary
    ) -> Work[tuple[SessionMemory, Consolidation]]:
        """The memory after `boundary`; yields after each bounded piece of work, with the share of
        the training that is done where it can be told."""
        started = time.monotonic()
        spans = stretch(memory, boundary)
        memory = replace(memory, budget=memory.budget.settled(boundary.position))
        if spans and boundary.level == 0 and memory.policy.writes_forward:
            assert self._writer is not None, "a policy that writes forward has something to write"
            memory = yield from self._writer.write(memory, spans)
        found = _Outcome(memory, LevelResult(spans, 0.0, 0.0))
        guard = memory.levels[boundary.level].guard
        if spans and guard.frozen:
            events = (Event(Guard.PASSED_OVER, len(spans), 0),)
            found = _Outcome(memory, NOTHING_PRACTISED, events=events)
            found = found.guarded(boundary.level, replace(guard, events=events))
        elif spans and memory.policy.recipe in RECIPES:
            found = yield from self._guarded(memory, boundary, spans)
        level = replace(found.memory.levels[boundary.level], learnt_through=boundary.position)
        memory = _with_level(found.memory, boundary.level, level)
        charge = round(found.trained_tokens * found.practised.document_share)
        memory = replace(memory, budget=memory.budget.charged(charge))
        if boundary.level == 0:
            gone = {item.start for item in found.practised.superseded}
            learnt = (*memory.buffer, *found.practised.spans)
            learnt = tuple(span for span in learnt if span.start not in gone)
            ahead = (span for span in memory.pending if span.end > boundary.position)
            memory = replace(
                memory,
                pending=(*found.practised.waiting, *ahead),
                flushes=tuple(at for at in memory.flushes if at > boundary.position),
                buffer=keep_sample(learnt, memory.policy),
            )
        report = Consolidation(
            level=boundary.level,
            position=boundary.position,
            spans=len(spans),
            tokens=_tokens(spans),
            surprise_before_nats=found.practised.before_nats,
            surprise_after_nats=found.practised.after_nats,
            trained_tokens=found.trained_tokens,
            seconds=time.monotonic() - started,
            drift=found.drift,
            probed=found.probed,
            guards=found.events,
            superseded=found.practised.superseded,
            statements=found.practised.statements,
            phases=dict(found.practised.seconds),
        )
        return memory, report

    def _guarded(
        self, memory: SessionMemory, boundary: Boundary, spans: tuple[Span, ...]
    ) -> Work[_Outcome]:
        """Result of training on a range of spans under the policy's guards, if it has any."""
        guards, before = memory.policy.guards, memory.levels[boundary.level]
        try:
            found = yield from self._learn(memory, boundary, spans)
        except DivergedStateError:
            if guards is None:
                raise
            # The same stretch would diverge for ever, and the session would never learn again.
            found = _Outcome(
                memory, NOTHING_PRACTISED, events=(Event(Guard.DIVERGED, len(spans), 0),)
            )
        if guards is None:
            return found
        surprise = found.practised.before_nats if found.practised.spans else None
        rise = None if found.probed is None else found.probed.rise
        if rise is not None and rise > guards.probe_rise:
            # As if nothing had been learnt, what the faster level gave up included.
            found = replace(
                found,
                memory=memory,
                practised=replace(found.practised, spans=(), superseded=()),
                events=(*found.events, Event(Guard.REJECTED, rise, guards.probe_rise)),
            )
        state = guards.decided(before.guard, found.events, surprise, rise)
        return found.guarded(boundary.level, state)

    def _recipe(self, name: str) -> Recipe:
        if name not in self._recipes:
            self._recipes[name] = RECIPES[name](self._resources)
        return self._recipes[name]

    def _probes_of(self, policy: LearningPolicy) -> Work[Probes]:
        if policy.seed not in self._probes:
            self._probes[policy.seed] = yield from write_probes(
                self._model, self._workers, self._resources.kept, policy.seed
            )
        return self._probes[policy.seed]

    def _learn(
        self, memory: SessionMemory, boundary: Boundary, spans: tuple[Span, ...]
    ) -> Work[_Outcome]:
        """Train by the recipe, then clip and measure. Raises DivergedStateError."""
        policy, index, untouched = memory.policy, boundary.level, memory
        untaught = memory.levels[index]
        recipe = self._recipe(policy.recipe)
        if index:  # what the faster level knows moves here, so it makes room
            memory = _decayed(memory, index - 1, policy.fast_decay)
        level = memory.levels[index]
        trainer = LevelTrainer(self._model, memory, index, self._workers)
        events: list[Event] = []
        nats: list[float] | None = None
        if policy.guards is not None:
            nats = yield from self._surprises(recipe, trainer, memory, spans)
            limit = policy.guards.surprise_nats
            if max(nats) > limit:
                events.append(Event(Guard.SKIPPED, max(nats), limit))
                kept = zip(spans, nats, strict=True)
                spans, nats = tuple(span for span, surprise in kept if surprise <= limit), None
                if not spans:
                    return _Outcome(untouched, NOTHING_PRACTISED, events=tuple(events))
        taught = {span.start for span in spans}
        rehearsed = tuple(span for span in memory.buffer if span.start not in taught)
        before = untouched.adapter
        practised = yield from recipe.train(
            trainer,
            Stretch(
                spans,
                rehearsed,
                policy,
                level.config.learning_rate,
                _seed(policy, boundary),
                None if before is None else before.to(self._model.dtype),
                nats,
                memory.budget.allowance(final=not index and boundary.position in memory.flushes),
                may_wait=not index,
            ),
        )
        if not trainer.tokens:  # no faster level makes room for nothing
            return _Outcome(untouched, practised, events=tuple(events))
        adapter = trainer.stored()
        if policy.guards is not None:
            adapter, shrunk = within(adapter, level.adapter, policy.guards, self._base_norm)
            events += shrunk
            if shrunk:
                trainer.load(adapter)
        level = replace(
            level,
            adapter=adapter,
            updates=level.updates + 1,
            learnt_tokens=level.learnt_tokens + _tokens(spans) - _tokens(practised.waiting),
            surprise_before_nats=practised.before_nats,
            surprise_after_nats=practised.after_nats,
        )
        probes = yield from self._probes_of(policy)
        return _Outcome(
            _with_level(memory, index, level),
            practised,
            trainer.tokens,
            level_drift(untaught, level, self._base_norm, trainer.steps),
            (yield from probes.measure(trainer)) if probes.packs else None,
            tuple(events),
        )

    def _surprises(
        self, recipe: Recipe, trainer: LevelTrainer, memory: SessionMemory, spans: Sequence[Span]
    ) -> Work[list[float]]:
        """Nats per token of each span. Under a budget a span is read once: what waited, or was
        learnt by a faster level, keeps what was found first."""
        known = [span.surprise_nats if memory.budget.account else None for span in spans]
        unread = [span for span, nats in zip(spans, known, strict=True) if nats is None]
        found = iter((yield from recipe.surprises(trainer, unread)) if unread else ())
        return [next(found) if nats is None else nats for nats in known]

    def consolidate_now(self, memory: SessionMemory, boundary: Boundary) -> SessionMemory:
        """The memory after `boundary`, in one go."""
        return at_once(self.consolidate(memory, boundary))[0]


def _tokens(spans: Sequence[Span]) -> int:
    return sum(len(span.ids) for span in spans)


def _seed(policy: LearningPolicy, boundary: Boundary) -> int:
    digest = hashlib.sha256(f"{policy.seed}:{boundary.level}:{boundary.position}".encode())
    return int.from_bytes(digest.digest()[:8], "little")


def _with_level(memory: SessionMemory, index: int, level: Level) -> SessionMemory:
    levels = (*memory.levels[:index], level, *memory.levels[index + 1 :])
    return replace(memory, levels=levels)


def _decayed(memory: SessionMemory, index: int, factor: float) -> SessionMemory:
    level = memory.levels[index]
    if level.adapter is None or factor == 1:
        return memory
    return _with_level(memory, index, replace(level, adapter=level.adapter.scaled(factor)))
