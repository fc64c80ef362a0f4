"""The turns: what generate, ingest, score and the learning events do with a session.

Each is a few lines over Sessions (lock, lease, commits) and the engine (compute). Knows no gRPC:
services/ translates requests and errors.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from hope_runtime.engine.reply import OnText
from hope_runtime.engine.turn import GenerateOutcome, GenerateTurn, ReadOutcome
from hope_runtime.errors import InvalidRequestError
from hope_runtime.learning import Consolidation
from hope_runtime.session.log import Record, RecordKind, Segment, Speaker
from hope_runtime.session.memory import Document
from hope_runtime.session.spans import SpanReader
from server.app.cancellation import result_of
from server.app.documents import advanced, digested, open_document
from server.app.residency import OnStatus, Resident, Status
from server.app.sessions import Sessions
from server.store.base import AlreadyExistsError, Head, SessionKey, StoredReply

# Tokens of a document between two commits, and so the most that a crash makes a client resend.
SUB_TURN_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Generated:
    """A reply and where it left the session.

    `window_began` says that the conversation had no window before; `dropped_conversation` names the
    one whose window had to go for it.
    """

    outcome: GenerateOutcome
    memory_version: int
    window_began: bool = False
    dropped_conversation: str = ""


@dataclass(frozen=True, slots=True)
class RequestId:
    """Protects a turn against being learnt twice; `digest` tells other requests apart."""

    id: str
    digest: bytes
    expires_at: float


class RepeatedRequestError(Exception):
    """The request was answered before; `payload` is the stored answer."""

    def __init__(self, payload: bytes) -> None:
        super().__init__("the request was already answered")
        self.payload = payload


async def generate(
    sessions: Sessions,
    key: SessionKey,
    turn: GenerateTurn,
    *,
    on_text: OnText,
    on_status: OnStatus,
    ready: Callable[[], bool],
    ephemeral: bool = False,
    request: RequestId | None = None,
    encode_reply: Callable[[Generated], bytes],
) -> Generated:
    """One reply, durable when this returns; learning goes on behind it.

    Raises RepeatedRequestError when `request` was answered before.
    """
    async with sessions.exclusive(key, on_status) as resident:
        if request is not None:
            await _check_repeat(sessions, key, request)
        if not ephemeral:
            await sessions.quotas.check(key)
        if turn.learn and not ephemeral:
            await sessions.quotas.check_rate(key.user)
        if not ephemeral and turn.conversation not in resident.memory.conversations:
            # A new conversation: what the others taught is learnt before it begins, which a turn
            # that is refused must not bring about.
            await asyncio.to_thread(sessions.engine.check, resident.memory, turn)
            await _flush(sessions, resident, on_status)
        version = resident.head.version
        row = (key, turn.conversation)
        ticket = sessions.engine.generate(row, resident.memory, turn, on_text, ready=ready)
        outcome = await result_of(ticket)
        before = resident.memory.conversations
        after = before if ephemeral else outcome.memory.conversations
        generated = Generated(
            outcome,
            version,
            window_began=turn.conversation not in before,
            dropped_conversation=_dropped(before, after),
        )
        if ephemeral:
            sessions.engine.drop(row)  # it holds keys and values of what was said
        else:
            reply = None
            if request is not None:
                payload = encode_reply(generated)
                reply = StoredReply(
                    request_id=request.id,
                    body_digest=request.digest,
                    payload=payload,
                    expires_at=request.expires_at,
                )
            try:
                await sessions.commit_turn(resident, outcome.record, outcome.memory, reply)
            except AlreadyExistsError:
                # Another server answered the same request in between.
                assert request is not None
                await _check_repeat(sessions, key, request)
                raise
            sessions.learn_later(resident)
        return generated


class End(Enum):
    """How the pieces of a document end."""

    COMPLETE = "complete"
    KEEP_OPEN = "keep_open"


class BrokenStreamError(Exception):
    """The pieces stopped coming before they said that they had ended."""


@dataclass(frozen=True, slots=True)
class IngestProgress:
    """How far an ingest has come. `nats` are summed over the `scored` tokens since the last one."""

    committed_bytes: int
    tokens: int
    nats: float
    scored: int
    memory_version: int
    ended: bool = False
    # Names of what the session had to let go of for this document: the place of another one, the
    # window of another conversation.
    dropped_document: str = ""
    dropped_conversation: str = ""


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
    on_status: OnStatus,
) -> AsyncIterator[IngestProgress]:
    """Reads a document as a row of sub-turns, each of them durable when its progress comes.

    `content_digest` is that of the bytes before `offset_bytes` as the caller has them; when what
    was read is something else, DocumentDiffersError is raised.

    The last of `parts` is an End; whoever sends them raises when it does not come, and then only
    the sub-turns that were reported are part of the session.
    """
    known = await open_document(sessions, key, document, offset_bytes, content_digest, on_status)
    reader = SpanReader(known.tail)
    encode = sessions.engine.model.tokenizer.encode
    tokens = 0
    # Bytes that `known` counts already but no span has: they come out with the next one.
    committed = known.committed_bytes - len(known.tail)
    pending: list[tuple[int, ...]] = []
    undigested = bytearray()  # what came behind the bytes that `known` counts

    async def sub_turn(
        spans: Sequence[tuple[int, ...]], expected: Document, now: Document
    ) -> IngestProgress:
        record = Record(
            RecordKind.DOCUMENT,
            conversation,
            (Segment(Speaker.DOCUMENT, tuple(spans), learn),) if spans else (),
            document=document,
            committed_bytes=now.committed_bytes,
            tail=now.tail,
            content=now.content,
            ended=now.ended,
        )
        while learn and (seconds := await sessions.quotas.wait_seconds(key.user)):
            on_status(Status.QUEUED)
            await asyncio.sleep(seconds)
        async with sessions.exclusive(key, on_status) as resident:
            if resident.memory.documents.get(document, Document()) != expected:
                raise InvalidRequestError(
                    f"document '{document}' was changed by another call; read its "
                    "committed_bytes and resume there",
                    field="start.document",
                )
            await sessions.quotas.check(key)
            before = resident.memory
            outcome = ReadOutcome(0.0, 0)
            if spans:
                row = (key, conversation)
                outcome = await result_of(sessions.engine.read(row, resident.memory, record))
                assert outcome.memory is not None
                await sessions.commit_turn(resident, record, outcome.memory)
            else:
                await sessions.commit_event(resident, record)
            # Not behind the reply but before the next piece: a stretch is learnt when it ends.
            await sessions.learnt(resident)
            return IngestProgress(
                now.committed_bytes,
                tokens,
                outcome.nats,
                outcome.scored,
                resident.head.version,
                now.ended,
                _dropped(before.documents, resident.memory.documents),
                _dropped(before.conversations, resident.memory.conversations),
            )

    ended = False
    async for part in parts:
        ended = part is End.COMPLETE
        data = part if isinstance(part, bytes) else b""
        undigested += data
        for span in reader.feed(data, final=ended):
            ids = tuple(encode(span))
            committed += len(span.encode())
            tokens += len(ids)
            pending.append(ids)
            if sum(map(len, pending)) >= SUB_TURN_TOKENS:
                now = advanced(known, committed, undigested)
                del undigested[: now.committed_bytes - known.committed_bytes]
                yield await sub_turn(pending, known, now)
                known, pending = now, []
    now = Document(
        committed + len(reader.tail), reader.tail, ended, digested(known, undigested, ended)
    )
    if not now.committed_bytes:
        raise InvalidRequestError("the document is empty", field="chunk")
    yield await sub_turn(pending, known, now)


def _dropped(before: Mapping[str, object], after: Mapping[str, object]) -> str:
    """The name that is gone, of a mapping that lets go of one when it takes another in."""
    return next((name for name in before if name not in after), "")


async def score(
    sessions: Sessions, key: SessionKey, context: str, text: str, *, frozen: bool
) -> tuple[ReadOutcome, int]:
    """Surprise of `text`, and the version of the memory that was asked. Changes nothing."""
    async with sessions.exclusive(key) as resident:
        memory = None if frozen else resident.memory
        outcome = await result_of(sessions.engine.score(memory, context, text))
        return outcome, resident.head.version


async def end_conversation(
    sessions: Sessions, key: SessionKey, conversation: str, *, wait: bool
) -> tuple[Head, list[Consolidation]]:
    """Drops a conversation's window and learns what it taught; nothing to do is no error."""
    async with sessions.exclusive(key) as resident:
        memory = resident.memory
        if conversation in memory.conversations or memory.pending:
            record = Record(RecordKind.END_CONVERSATION, conversation)
            await sessions.commit_event(resident, record)
            sessions.engine.drop((key, conversation))
        if not wait:
            sessions.learn_later(resident)
            return resident.head, []
        reports = await sessions.learnt(resident)
        return resident.head, reports


async def consolidate(sessions: Sessions, key: SessionKey) -> tuple[Head, list[Consolidation]]:
    """Learns now what waits for a boundary; nothing to learn is no error."""
    async with sessions.exclusive(key) as resident:
        reports = await _flush(sessions, resident, lambda _: None)
        return resident.head, reports


async def _flush(
    sessions: Sessions, resident: Resident, on_status: OnStatus
) -> list[Consolidation]:
    if not resident.memory.pending:
        return []
    await sessions.commit_event(resident, Record(RecordKind.CONSOLIDATE))
    on_status(Status.LEARNING)
    return await sessions.learnt(resident)


async def _check_repeat(sessions: Sessions, key: SessionKey, request: RequestId) -> None:
    stored = await sessions.store.find_reply(key, request.id)
    if stored is None:
        return
    if stored.body_digest != request.digest:
        raise InvalidRequestError(
            f"request_id '{request.id}' was already used for a different request; use a new one",
            field="request_id",
        )
    raise RepeatedRequestError(stored.payload)
