"""Turns on a session: generate, score, and the events that make it learn. Ingest is in ingest.py.

Each is a few lines over Sessions (lock, lease, commits) and the engine (compute). Knows no
transport: generate and score hand out events (events.py), which transports map.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from hope_runtime.engine.reply import TextPiece
from hope_runtime.engine.turn import GenerateOutcome, GenerateTurn
from hope_runtime.learning import Consolidation
from hope_runtime.session.log import Record, RecordKind
from hope_runtime.session.memory import SessionMemory
from hope_runtime.tokenizer import Tokenizer
from server.app.cancellation import result_of
from server.app.documents import dropped
from server.app.event_stream import EventStream
from server.app.events import (
    Finished,
    GenerateEvent,
    Scored,
    ScoreEvent,
    TextDelta,
    TokenLogprob,
    TokenLogprobs,
    Usage,
)
from server.app.measures import ReplyClock
from server.app.replies import RequestId, find_reply, to_store
from server.app.residency import Resident
from server.app.sessions import Sessions
from server.store.base import AlreadyExistsError, Head, SessionKey


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
    clock = ReplyClock(sessions.metrics, str(key), sessions.tracer)
    stream: EventStream[GenerateEvent] = EventStream(sessions.limits.stalled_stream_seconds)
    answering = _Answering(sessions, key, turn, stream, ephemeral, request)
    async with aclosing(stream.run(answering.run())) as events:
        async for event in events:
            clock.saw(event)
            yield event


class _Answering:
    """One reply under way."""

    def __init__(
        self,
        sessions: Sessions,
        key: SessionKey,
        turn: GenerateTurn,
        stream: EventStream[GenerateEvent],
        ephemeral: bool,
        request: RequestId | None,
    ) -> None:
        self._sessions = sessions
        self._key = key
        self._turn = turn
        self._stream = stream
        self._ephemeral = ephemeral
        # Nothing is kept of an ephemeral turn, so there is nothing to repeat.
        self._request = None if ephemeral else request
        self._started = time.monotonic()
        # Seconds that the reply waits for learning; None: until it has ended.
        self._wait: float | None = None

    async def run(self) -> None:
        sessions, request = self._sessions, self._request
        # Learning and a turn may run side by side where turns leave the levels alone.
        patience = sessions.limits.learning_wait_seconds
        wait = patience if sessions.engine.learns_beside_turns else None
        async with sessions.exclusive(
            self._key, self._stream.put, learning_wait_seconds=wait
        ) as resident:
            self._wait = wait
            stored = await find_reply(sessions, self._key, request) if request else None
            last = stored or await self._reply(resident)
        # The session is free by now, so whoever reads the end can go on at once.
        for event in last:
            self._stream.put(event)

    async def _reply(self, resident: Resident) -> tuple[GenerateEvent, ...]:
        """Decode a reply and commit it; returns the events that are left for its end."""
        sessions, turn, ephemeral = self._sessions, self._turn, self._ephemeral
        if not ephemeral:
            await sessions.store_watch.require_room()
            await self._check_quotas()
        new = turn.conversation not in resident.memory.conversations
        if new and not ephemeral and not resident.learning:
            # A new conversation: what the others taught is learnt before it begins, which a turn
            # that is refused must not bring about.
            await asyncio.to_thread(sessions.engine.check, resident.memory, turn)
            await self._flush(resident)
        version, began = resident.head.version, resident.memory
        learning = resident.learning is not None
        outcome = await self._decode(resident)
        finished = replace(
            _finished(outcome, version),
            window_began=new,
            dropped_conversation=dropped(
                began.conversations,
                began.conversations if ephemeral else outcome.memory.conversations,
            ),
            learning=learning,
        )
        if ephemeral:
            # Its window holds keys and values of what was said.
            sessions.engine.drop((self._key, turn.conversation))
        else:
            if stored := await self._commit(resident, began, outcome, finished):
                return stored
            sessions.commits.learn_later(resident)
        spent = outcome.prefill_seconds + outcome.decode_seconds
        queued = max(0.0, time.monotonic() - self._started - spent)
        return (replace(finished, usage=replace(finished.usage, queue_seconds=queued)),)

    async def _flush(self, resident: Resident) -> None:
        """Make what is pending due, and wait for it as long as a reply does."""
        if resident.memory.pending:
            await self._sessions.commits.event(resident, Record(RecordKind.CONSOLIDATE))
            await self._sessions.commits.learning_ended(
                resident, self._stream.put, seconds=self._wait
            )

    async def _check_quotas(self) -> None:
        await self._sessions.quotas.check(self._key)
        if self._turn.learn:
            await self._sessions.quotas.check_rate(self._key.user)

    async def _decode(self, resident: Resident) -> GenerateOutcome:
        stream, tokenizer = self._stream, self._sessions.tokenizer

        def on_text(piece: TextPiece) -> None:
            stream.put_threadsafe(_delta(tokenizer, piece))

        ticket = self._sessions.engine.generate(
            (self._key, self._turn.conversation),
            resident.memory,
            self._turn,
            on_text,
            ready=lambda: not stream.has_plenty,
        )
        return await result_of(ticket)

    async def _commit(
        self,
        resident: Resident,
        began: SessionMemory,
        outcome: GenerateOutcome,
        finished: Finished,
    ) -> tuple[TextDelta, Finished] | None:
        """Make a turn durable. Returns the stored reply if another server answered the same request
        meanwhile."""
        sessions, request = self._sessions, self._request
        reply = None
        if request is not None:
            delta = _delta(sessions.tokenizer, outcome.reply)
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


def _delta(tokenizer: Tokenizer, piece: TextPiece) -> TextDelta:
    def one(token: int, logprob: float) -> TokenLogprob:
        return TokenLogprob(token, tokenizer.token_bytes(token), logprob)

    return TextDelta(
        piece.text,
        piece.tokens,
        tuple(
            TokenLogprobs(one(each.token, each.logprob), tuple(one(*likely) for likely in each.top))
            for each in piece.logprobs
        ),
    )


def _finished(outcome: GenerateOutcome, version: int) -> Finished:
    usage = Usage(
        input_tokens=outcome.input_tokens,
        output_tokens=outcome.output_tokens,
        learnable_tokens=outcome.record.learnable_tokens,
        memory_version=version,
        queue_seconds=0.0,
        prefill_seconds=outcome.prefill_seconds,
        decode_seconds=outcome.decode_seconds,
        surprise_nats=outcome.surprise_nats,
    )
    return Finished(outcome.finish_reason, outcome.text, usage)


async def score(
    sessions: Sessions, key: SessionKey, context: str, text: str, *, frozen: bool
) -> AsyncGenerator[ScoreEvent, None]:
    """Measure the surprise of `text` after `context`, with the session's memory or, if `frozen`,
    with the base model alone. Changes nothing."""
    stream: EventStream[ScoreEvent] = EventStream()

    async def work() -> None:
        async with sessions.exclusive(key, stream.put) as resident:
            memory = None if frozen else resident.memory
            outcome = await result_of(sessions.engine.score(memory, context, text))
            scored = Scored(outcome.scored, outcome.nats, resident.head.version)
        stream.put(scored)

    async with aclosing(stream.run(work())) as events:
        async for event in events:
            yield event


async def end_conversation(
    sessions: Sessions, key: SessionKey, conversation: str, *, wait: bool
) -> tuple[Head, list[Consolidation]]:
    """Drop a conversation's window and learn from it, behind the answer unless `wait`. Nothing to
    do is no error."""
    async with sessions.exclusive(key) as resident:
        memory = resident.memory
        if conversation in memory.conversations or memory.pending:
            await sessions.store_watch.require_room()
            record = Record(RecordKind.END_CONVERSATION, conversation)
            await sessions.commits.event(resident, record)
            sessions.engine.drop((key, conversation))
        if not wait:
            sessions.commits.learn_later(resident)
            return resident.head, []
        reports = await sessions.commits.learnt(resident)
        return resident.head, reports


async def consolidate(sessions: Sessions, key: SessionKey) -> tuple[Head, list[Consolidation]]:
    """Learn now what waits for a boundary. Nothing to learn is no error."""
    async with sessions.exclusive(key) as resident:
        if not resident.memory.pending:
            return resident.head, []
        # Before the record that makes it due: what is refused leaves no trace.
        await sessions.store_watch.require_room()
        await sessions.commits.event(resident, Record(RecordKind.CONSOLIDATE))
        reports = await sessions.commits.learnt(resident)
        return resident.head, reports
