"""Generation: the turn that answers, on a session or with the base model alone.

A few steps over Sessions (lock, lease, commits) and the engine (compute). Knows no transport:
events (events.py) are handed out, which transports map.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable
from contextlib import aclosing
from dataclasses import dataclass, replace

from hope_runtime.engine.reply import TextPiece
from hope_runtime.engine.turn import GenerateOutcome, GenerateTurn
from hope_runtime.session.log import Record, RecordKind
from hope_runtime.session.memory import SessionMemory
from server.app.cancellation import result_of
from server.app.documents import dropped
from server.app.event_stream import EventStream
from server.app.events import (
    Began,
    Finished,
    GenerateEvent,
    TextDelta,
)
from server.app.measures import ReplyClock
from server.app.outcomes import delta_of, finished_of, waited
from server.app.replies import RequestId, find_reply, to_store
from server.app.residency import Resident
from server.app.sessions import Sessions
from server.store.base import AlreadyExistsError, SessionKey


@dataclass(frozen=True, slots=True)
class Plan:
    """A turn that a session answers. One that is `ephemeral` keeps nothing; a `request` that was
    answered before gets its reply again."""

    turn: GenerateTurn
    ephemeral: bool = False
    request: RequestId | None = None


# Makes the plan from the memory of the session, once that is held.
Planner = Callable[[SessionMemory], Awaitable[Plan]]


def always(plan: Plan) -> Planner:
    """The planner of a turn that does not depend on the memory."""

    async def planned(_: SessionMemory) -> Plan:
        return plan

    return planned


def _never() -> bool:
    return False


async def generate(
    sessions: Sessions,
    key: SessionKey,
    turn: GenerateTurn,
    *,
    ephemeral: bool = False,
    request: RequestId | None = None,
) -> AsyncGenerator[GenerateEvent, None]:
    """Answer the last message of a turn.

    Yields text as it becomes certain, and Finished when the turn is durable; learning goes on
    behind it. A reader that is behind holds up its own turn only, and one that stalls ends it. A
    turn that is `ephemeral` keeps nothing; a `request` that was answered before gets its reply
    again. Close the iterator to cancel the turn, which then leaves no trace.

    Raises InvalidRequestError, QuotaExceededError, StalledStreamError, errors of the store, and why
    the session cannot be used.
    """
    # Nothing is kept of an ephemeral turn, so there is nothing to repeat.
    plan = Plan(turn, ephemeral, None if ephemeral else request)
    async with aclosing(generate_planned(sessions, key, always(plan))) as events:
        async for event in events:
            yield event


async def generate_planned(
    sessions: Sessions,
    key: SessionKey,
    planner: Planner,
    ended: Callable[[], bool] = _never,
) -> AsyncGenerator[GenerateEvent, None]:
    """Answer a turn that depends on what the session knows; otherwise as `generate`.

    The reply ends, as if the model had ended it, when `ended` is true at a piece of its text.
    """
    stream: EventStream[GenerateEvent] = EventStream(sessions.limits.stalled_stream_seconds)
    answering = _Answering(sessions, key, planner, stream, ended)
    async with aclosing(_measured(sessions, str(key), stream.run(answering.run()))) as events:
        async for event in events:
            yield event


async def generate_stateless(
    sessions: Sessions,
    turn: GenerateTurn,
    ended: Callable[[], bool] = _never,
    *,
    memory: SessionMemory | None = None,
    version: int = 0,
) -> AsyncGenerator[GenerateEvent, None]:
    """Answer without a session: with the base model alone, or with a `memory` of a kept `version`.
    Nothing is kept. `ended` as above."""
    sessions.admit()
    stream: EventStream[GenerateEvent] = EventStream(sessions.limits.stalled_stream_seconds)
    known = memory or SessionMemory.fresh(sessions.fingerprint, sessions.policy("default"))
    started, row = time.monotonic(), object()

    async def work() -> None:
        stream.put(Began(version))
        try:
            outcome = await _decode(sessions, row, known, turn, stream, ended)
        finally:
            sessions.engine.drop(row)
        stream.put(waited(finished_of(outcome, version), started))

    async with aclosing(_measured(sessions, "", stream.run(work()))) as events:
        async for event in events:
            yield event


async def _measured(
    sessions: Sessions, session: str, events: AsyncGenerator[GenerateEvent, None]
) -> AsyncGenerator[GenerateEvent, None]:
    clock = ReplyClock(sessions.metrics, session, sessions.tracer)
    async with aclosing(events):
        async for event in events:
            clock.saw(event)
            yield event


async def _decode(
    sessions: Sessions,
    row: Hashable,
    memory: SessionMemory,
    turn: GenerateTurn,
    stream: EventStream[GenerateEvent],
    ended: Callable[[], bool],
) -> GenerateOutcome:
    tokenizer = sessions.tokenizer

    def on_text(piece: TextPiece) -> bool:
        stream.put_threadsafe(delta_of(tokenizer, piece))
        return ended()

    ticket = sessions.engine.generate(
        row, memory, turn, on_text, ready=lambda: not stream.has_plenty
    )
    return await result_of(ticket)


class _Answering:
    """One reply under way."""

    def __init__(
        self,
        sessions: Sessions,
        key: SessionKey,
        planner: Planner,
        stream: EventStream[GenerateEvent],
        ended: Callable[[], bool],
    ) -> None:
        self._sessions = sessions
        self._key = key
        self._planner = planner
        self._stream = stream
        self._ended = ended
        self._started = time.monotonic()
        # Seconds that the reply waits for learning; None: until it has ended. Learning and a turn
        # may run side by side where turns leave the levels alone.
        patience = sessions.limits.learning_wait_seconds
        self._wait = patience if sessions.engine.learns_beside_turns else None

    async def run(self) -> None:
        sessions = self._sessions
        async with sessions.exclusive(
            self._key, self._stream.put, learning_wait_seconds=self._wait
        ) as resident:
            plan = await self._planner(resident.memory)
            request = plan.request
            if request and (stored := await find_reply(sessions, self._key, request)):
                last: tuple[GenerateEvent, ...] = _replayed(stored)
            else:
                last = await self._reply(resident, plan)
        # The session is free by now, so whoever reads the end can go on at once.
        for event in last:
            self._stream.put(event)

    async def _reply(self, resident: Resident, plan: Plan) -> tuple[GenerateEvent, ...]:
        """Decode a reply and commit it; returns the events that are left for its end."""
        sessions, turn, ephemeral = self._sessions, plan.turn, plan.ephemeral
        if not ephemeral:
            await sessions.store_watch.require_room()
            await self._check_quotas(turn)
        new = turn.conversation not in resident.memory.conversations
        if new and not ephemeral and not resident.learning:
            # A new conversation: what the others taught is learnt before it begins, which a turn
            # that is refused must not bring about.
            await asyncio.to_thread(sessions.engine.check, resident.memory, turn)
            await self._flush(resident)
        version, began = resident.head.version, resident.memory
        learning = resident.learning is not None
        self._stream.put(Began(version))
        row = (self._key, turn.conversation)
        outcome = await _decode(sessions, row, began, turn, self._stream, self._ended)
        finished = replace(
            finished_of(outcome, version, _window_tokens(began, turn)),
            window_began=turn.fresh or new,
            dropped_conversation=dropped(
                began.conversations,
                began.conversations if ephemeral else outcome.memory.conversations,
            ),
            learning=learning,
        )
        if ephemeral:
            # Its window holds keys and values of what was said.
            sessions.engine.drop(row)
        else:
            if stored := await self._commit(resident, began, outcome, finished, plan.request):
                return _replayed(stored)[1:]
            sessions.commits.learn_later(resident)
        return (waited(finished, self._started),)

    async def _flush(self, resident: Resident) -> None:
        """Make what is pending due, and wait for it as long as a reply does."""
        if resident.memory.pending:
            await self._sessions.commits.event(resident, Record(RecordKind.CONSOLIDATE))
            await self._sessions.commits.learning_ended(
                resident, self._stream.put, seconds=self._wait
            )

    async def _check_quotas(self, turn: GenerateTurn) -> None:
        await self._sessions.quotas.check(self._key)
        if turn.learn:
            await self._sessions.quotas.check_rate(self._key.user)

    async def _commit(
        self,
        resident: Resident,
        began: SessionMemory,
        outcome: GenerateOutcome,
        finished: Finished,
        request: RequestId | None,
    ) -> tuple[TextDelta, Finished] | None:
        """Make a turn durable. Returns the stored reply if another server answered the same request
        meanwhile."""
        sessions = self._sessions
        reply = None
        if request is not None:
            delta = delta_of(sessions.tokenizer, outcome.reply)
            reply = to_store(sessions, request, delta, finished)
        try:
            await sessions.commits.turn(
                resident, outcome.record, outcome.memory, reply, began=began
            )
        except AlreadyExistsError:
            assert request is not None
            if stored := await find_reply(sessions, self._key, request):
                return stored
            raise
        return None


def _replayed(stored: tuple[TextDelta, Finished]) -> tuple[GenerateEvent, ...]:
    delta, finished = stored
    return Began(finished.usage.memory_version), delta, finished


def _window_tokens(memory: SessionMemory, turn: GenerateTurn) -> int:
    """Tokens that the window of the turn's conversation holds before it."""
    known = memory.conversations.get(turn.conversation)
    return 0 if known is None or turn.fresh else len(known.window.tokens)
