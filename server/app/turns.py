"""Turns on a session besides replies: score, and the events that make it learn. Replies are in
generation.py, ingest in ingest.py.

Each is a few lines over Sessions (lock, lease, commits) and the engine (compute). Knows no
transport: score hands out events (events.py), which transports map.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from hope_runtime.errors import InvalidRequestError
from hope_runtime.learning import Consolidation
from hope_runtime.session.log import Record, RecordKind
from server.app import kept_versions
from server.app.cancellation import result_of
from server.app.event_stream import EventStream
from server.app.events import Scored, ScoreEvent
from server.app.sessions import Sessions
from server.store.base import Head, SessionKey


async def score(
    sessions: Sessions,
    key: SessionKey,
    context: str,
    text: str,
    *,
    frozen: bool,
    at_version: int | None = None,
) -> AsyncGenerator[ScoreEvent, None]:
    """Measure the surprise of `text` after `context`, with the session's memory, with the one that
    it had `at_version` or, if `frozen`, with the base model alone. Changes nothing.

    Raises InvalidRequestError for a version that is not kept and for a text that cannot be scored,
    errors of the store, and why the session cannot be used.
    """
    if at_version is not None:
        if frozen:
            raise InvalidRequestError(
                "frozen and at_version are mutually exclusive; version 0 is the base model",
                field="at_version",
            )
        yield await kept_versions.score(
            sessions, key, at_version, context, text, field="at_version"
        )
        return
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
