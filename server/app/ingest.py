"""Ingest: a document is read as a row of sub-turns, each of them durable by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from hope_runtime.errors import InvalidRequestError
from hope_runtime.learning.recipes import RECIPES
from hope_runtime.session.log import Record, RecordKind, Segment, Speaker
from hope_runtime.session.memory import Document
from hope_runtime.session.policy import LearningPolicy
from hope_runtime.session.spans import SpanReader
from server.app.cancellation import result_of
from server.app.documents import advanced, check_whole, digested, dropped, open_document
from server.app.event_stream import EventStream
from server.app.events import NOTHING_LEARNT, Ingested, IngestEvent, IngestProgress, Queued
from server.app.measures import IngestCounter
from server.app.sessions import Sessions
from server.store.base import SessionKey

# Tokens of a document between two commits, and so the most that a crash makes a client resend.
SUB_TURN_TOKENS = 256


@dataclass(frozen=True, slots=True)
class End:
    """End of the pieces of a document, to be continued by another call if `keep_open`.

    `content_digest` is that of the whole document as the caller has it; empty if it did not say.
    """

    keep_open: bool = False
    content_digest: bytes = b""


class BrokenStreamError(Exception):
    """The pieces stopped coming before they said that they had ended."""


async def ingest(
    sessions: Sessions,
    key: SessionKey,
    parts: AsyncIterator[bytes | End],
    *,
    conversation: str,
    document: str,
    offset_bytes: int,
    content_digest: bytes = b"",
    learn: bool,
    budget: float | None = None,
) -> AsyncGenerator[IngestEvent, None]:
    """Read a document in pieces of UTF-8, cut anywhere, from `offset_bytes` on.

    Yields progress after each sub-turn, which is durable by then, and Ingested last. The next
    sub-turn begins when the reader asks for more. The last of `parts` is an End; whoever sends them
    raises when it does not come, and then only the sub-turns that were reported are part of the
    session.

    `content_digest` is that of the bytes before `offset_bytes` as the caller has them; when what
    was read is something else, DocumentDiffersError is raised. `budget` is the most passes that
    learning may take for each token; None: as the session's policy says.

    Raises InvalidRequestError, QuotaExceededError, errors of the store, and why the session cannot
    be used.
    """
    counter = IngestCounter(sessions.metrics)
    stream: EventStream[IngestEvent] = EventStream()
    reading = _Reading(sessions, key, stream, conversation, document, learn, budget)
    async with aclosing(stream.run(reading.run(parts, offset_bytes, content_digest))) as events:
        async for event in events:
            counter.saw(event)
            yield event


class _Reading:
    """One ingest under way."""

    def __init__(
        self,
        sessions: Sessions,
        key: SessionKey,
        stream: EventStream[IngestEvent],
        conversation: str,
        document: str,
        learn: bool,
        budget: float | None,
    ) -> None:
        self._sessions = sessions
        self._key = key
        self._stream = stream
        self._conversation = conversation
        self._document = document
        self._learn = learn
        self._budget = budget
        self._tokens = 0
        self._nats = 0.0
        self._scored = 0
        self._learning = NOTHING_LEARNT

    async def run(
        self, parts: AsyncIterator[bytes | End], offset_bytes: int, content_digest: bytes
    ) -> None:
        known = await open_document(
            self._sessions,
            self._key,
            self._document,
            offset_bytes,
            content_digest,
            self._stream.put,
        )
        reader = SpanReader(known.tail, known.committed_bytes - len(known.tail))
        tokenizer = self._sessions.tokenizer
        # Bytes that `known` counts already but no span has: they come out with the next one.
        committed = known.committed_bytes - len(known.tail)
        pending: list[tuple[int, ...]] = []
        undigested = bytearray()  # what came behind the bytes that `known` counts
        ended = False
        part: bytes | End = b""
        async for part in parts:
            ended = isinstance(part, End) and not part.keep_open
            data = part if isinstance(part, bytes) else b""
            undigested += data
            for span in reader.feed(data, final=ended):
                # Each span by itself, so that the pieces in which the text came change no token.
                ids = tuple(tokenizer.encode(span if committed else tokenizer.opening(span)))
                committed += len(span.encode())
                self._tokens += len(ids)
                pending.append(ids)
                if sum(map(len, pending)) >= SUB_TURN_TOKENS:
                    now = advanced(known, committed, undigested)
                    del undigested[: now.committed_bytes - known.committed_bytes]
                    await self._sub_turn(pending, known, now)
                    known, pending = now, []
        content = digested(known, undigested, ended)
        now = Document(committed + len(reader.tail), reader.tail, ended, content)
        if isinstance(part, End):
            check_whole(self._document, known, undigested, part.content_digest)
        if not now.committed_bytes:
            raise InvalidRequestError("the document is empty", field="chunk")
        version = await self._sub_turn(pending, known, now)
        surprise = self._nats / self._scored if self._scored else None
        self._stream.put(
            Ingested(
                now.committed_bytes, self._tokens, version, surprise, now.ended, self._learning
            )
        )

    async def _sub_turn(
        self, spans: Sequence[tuple[int, ...]], expected: Document, now: Document
    ) -> int:
        """Read, store and learn the next spans. Returns the version of the memory after them."""
        sessions, name, learn = self._sessions, self._document, self._learn
        while learn and (seconds := await sessions.quotas.wait_seconds(self._key.user)):
            self._stream.put(Queued())
            await asyncio.sleep(seconds)
        async with sessions.exclusive(self._key, self._stream.put) as resident:
            if resident.memory.documents.get(name, Document()) != expected:
                raise InvalidRequestError(
                    f"document '{name}' was changed by another call; read its "
                    "committed_bytes and resume there",
                    field="start.document",
                )
            await sessions.store_watch.require_room()
            await sessions.quotas.check(self._key)
            before = resident.memory
            record = self._record(spans, now, before.policy)
            nats, scored = 0.0, 0
            if spans and not (learn and before.policy.recipe in RECIPES):
                row = (self._key, self._conversation)
                outcome = await result_of(sessions.engine.read(row, before, record))
                assert outcome.memory is not None
                nats, scored = outcome.nats, outcome.scored
                await sessions.commits.turn(resident, record, outcome.memory)
            else:
                # A recipe scores what it learns. The window is read when somebody asks in it.
                await sessions.commits.event(resident, record)
            sessions.commits.learn_later(resident)
        # Before the next piece rather than behind it: a boundary is learnt where it lies. The
        # session is free meanwhile, for turns that go on beside learning.
        reports = await sessions.commits.reports(resident, self._stream.put)
        version, after = resident.head.version, resident.memory
        for report in reports:
            if report.level == 0:
                nats += report.surprise_before_nats * report.tokens
                scored += report.tokens
        self._nats += nats
        self._scored += scored
        surprise = nats / scored if scored else None
        self._learning = replace(self._learning, budget=record.budget).with_reports(reports)
        self._stream.put(
            IngestProgress(
                now.committed_bytes,
                self._tokens,
                version,
                surprise,
                dropped_document=dropped(before.documents, after.documents),
                dropped_conversation=dropped(before.conversations, after.conversations),
                learning=self._learning,
            )
        )
        await self._stream.taken()
        return version

    def _record(
        self, spans: Sequence[tuple[int, ...]], now: Document, policy: LearningPolicy
    ) -> Record:
        """The next spans as a record of the log. Raises InvalidRequestError for a budget that the
        policy does not know."""
        budget = policy.document_budget
        if self._budget is not None and budget is None:
            raise InvalidRequestError(
                f"policy '{policy.name}' knows no budget of documents; leave it out",
                field="start.learn_options.budget",
            )
        if self._budget is not None:
            budget = self._budget
        return Record(
            RecordKind.DOCUMENT,
            self._conversation,
            (Segment(Speaker.DOCUMENT, tuple(spans), self._learn),) if spans else (),
            document=self._document,
            committed_bytes=now.committed_bytes,
            tail=now.tail,
            content=now.content,
            ended=now.ended,
            budget=budget if self._learn else None,
        )
