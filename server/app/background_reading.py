"""Reading documents in the background: ingests whose text the server keeps.

Each session reads one document at a time, by the very turns that a client's ingest takes, so other
turns go on between them. The texts lie in the store as the session's job (reading_queue.py); how
far a document was read is in the memory. So whoever serves the session next goes on with it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

from hope_runtime.errors import HopeError, InvalidRequestError
from hope_runtime.session.memory import Document
from server.app.documents import DocumentDiffersError, digested, open_document
from server.app.events import NOTHING_LEARNT, Ingested, IngestLearning, IngestProgress
from server.app.ingest import End, ingest
from server.app.quotas import QuotaExceededError
from server.app.reading_queue import REQUEST, QueuedDocument, ReadingQueue, reads_documents
from server.app.residency import JobRunningError
from server.app.sessions import DrainingError, Sessions
from server.store.base import LeaseHeldError, NotFoundError, SessionKey, StoreError

_log = logging.getLogger(__name__)

MAX_TEXT_BYTES = 64 << 20
# Before a document is tried again that could not be read for a cause that passes.
RETRY_SECONDS = 15.0
_PIECE_BYTES = 64 << 10
_PASSING = (StoreError, QuotaExceededError, JobRunningError, DrainingError)


@dataclass(frozen=True, slots=True)
class Reading:
    """Progress of the document that is read now, since this server took it up."""

    document: str
    committed_bytes: int
    began: float
    tokens: int = 0
    learning: IngestLearning = NOTHING_LEARNT

    @property
    def seconds(self) -> float:
        """Time since this server took it up."""
        return time.monotonic() - self.began


class BackgroundReading:
    """Reads the queued documents of the sessions of one server."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._store = sessions.store
        self._tasks: dict[SessionKey, asyncio.Task[None]] = {}
        self._readings: dict[SessionKey, Reading] = {}

    def reading(self, key: SessionKey) -> Reading | None:
        """Progress of what a session reads now; None while it reads nothing on this server."""
        return self._readings.get(key)

    async def receive(
        self,
        key: SessionKey,
        document: QueuedDocument,
        parts: AsyncIterator[bytes | End],
        *,
        content_digest: bytes = b"",
    ) -> Ingested:
        """Take a document whose text `parts` give, and read it in the background. Arguments and
        errors are those of `ingest`; raises as `_collected` and `submit` do."""
        name = document.document
        known = await open_document(
            self._sessions, key, name, document.offset, content_digest, lambda _: None
        )
        text = await _collected(name, known, parts)
        document = replace(document, end=document.offset + len(text))
        committed = await self.submit(key, document, text)
        version = (await self._store.head(key)).version
        return Ingested(committed, 0, version, None, ended=False, queued=True)

    async def submit(self, key: SessionKey, document: QueuedDocument, text: bytes) -> int:
        """Queue a document with its text from `document.offset` on. Returns how many bytes of it
        are read already.

        Raises InvalidRequestError for a document that is at work, was read to its end, or was read
        up to another byte; DocumentDiffersError, QuotaExceededError, errors of the store, and why
        the session cannot be used.
        """
        at_work = self.reading(key)
        if at_work is not None and at_work.document == document.document:
            raise InvalidRequestError(
                f"document '{document.document}' is being read in the background; wait for it or "
                "cancel the job",
                field="start.document",
            )
        async with self._sessions.exclusive(key, learning_wait_seconds=0) as resident:
            await self._sessions.store_watch.require_room()
            await self._sessions.quotas.check(key)
            known = resident.memory.documents.get(document.document, Document())
            if known.ended or known.committed_bytes != document.offset:
                raise InvalidRequestError(
                    f"document '{document.document}' was read up to byte {known.committed_bytes} "
                    "meanwhile; send it from there",
                    field="start.offset_bytes",
                )
            head = await self._store.head(key)
            queue = ReadingQueue()
            if head.job is not None:
                queue = ReadingQueue.decode(head.job.progress)
            await self._store.save_job(
                resident.lease,
                request=REQUEST,
                progress=queue.with_document(document).encode(),
                put_blobs={document.blob: text},
            )
        self.take_up(key)
        return known.committed_bytes

    def take_up(self, key: SessionKey) -> None:
        """Read what a session has queued, unless this server is at it."""
        if key in self._tasks or self._sessions.draining:
            return
        task = asyncio.create_task(self._read_all(key))
        self._tasks[key] = task
        task.add_done_callback(lambda _: self._ended(key))

    async def cancel(self, key: SessionKey) -> None:
        """Stop reading; what was committed stays. The job is the caller's to end."""
        task = self._tasks.get(key)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def stop(self) -> None:
        """Stop reading everywhere; another server, or this one later, goes on."""
        await asyncio.gather(*(self.cancel(key) for key in list(self._tasks)))

    def _ended(self, key: SessionKey) -> None:
        task = self._tasks.pop(key)
        self._readings.pop(key, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("reading in the background failed", exc_info=error)

    async def _read_all(self, key: SessionKey) -> None:
        while True:
            try:
                document = await self._read_next(key)
            except LeaseHeldError:
                return  # another server is at it
            except NotFoundError:
                return  # the job was ended, or the session erased
            except _PASSING as error:
                _log.info("reading in the background waits: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if document is None:
                return

    async def _read_next(self, key: SessionKey) -> QueuedDocument | None:
        """Read one document to its end, and take it out of the queue. Returns None when none is
        left that can be read."""
        job, blobs = await self._store.read_job(key)
        if not reads_documents(job):
            return None
        document = ReadingQueue.decode(job.progress).next
        if document is None:
            return None
        try:
            await self._read(key, document, blobs[document.blob])
        except _PASSING:
            raise
        except HopeError as error:
            reason = str(error)  # Python forgets `error` where this block ends
            _log.warning("document %r cannot be read: %s", document.document, reason)
            await self._change(key, lambda queue: queue.failed(document.document, reason))
        else:
            await self._change(key, lambda queue: queue.without(document.document), document.blob)
        finally:
            self._readings.pop(key, None)
        return document

    async def _read(self, key: SessionKey, document: QueuedDocument, text: bytes) -> None:
        async with self._sessions.exclusive(key) as resident:
            known = resident.memory.documents.get(document.document, Document())
        if known.ended:
            return
        start = known.committed_bytes
        if not document.offset <= start <= document.end:
            raise InvalidRequestError(
                f"the session was read back to byte {start} of the document, and the text in the "
                f"queue begins at byte {document.offset}; send the document again"
            )
        self._readings[key] = Reading(document.document, start, time.monotonic())
        rest = text[start - document.offset :]
        events = ingest(
            self._sessions,
            key,
            _parts(rest),
            conversation=document.conversation,
            document=document.document,
            offset_bytes=start,
            learn=document.learn,
            budget=document.budget,
        )
        async with aclosing(events):
            async for event in events:
                if isinstance(event, IngestProgress):
                    self._readings[key] = replace(
                        self._readings[key],
                        committed_bytes=event.committed_bytes,
                        tokens=event.tokens,
                        learning=event.learning,
                    )

    async def _change(
        self, key: SessionKey, change: Callable[[ReadingQueue], ReadingQueue], gone: str = ""
    ) -> None:
        """Change the stored queue; a job without documents ends."""
        async with self._sessions.exclusive(key) as resident:
            job = (await self._store.head(key)).job
            if job is None or not reads_documents(job):
                return
            queue = change(ReadingQueue.decode(job.progress))
            if not queue.documents:
                await self._store.end_job(resident.lease)
                return
            await self._store.save_job(
                resident.lease,
                request=REQUEST,
                progress=queue.encode(),
                drop_blobs=frozenset([gone] if gone else []),
            )


async def _collected(document: str, known: Document, parts: AsyncIterator[bytes | End]) -> bytes:
    """All the bytes of a document behind those that `known` counts. Raises InvalidRequestError
    when they are too many, none, or not all of it, DocumentDiffersError for those of another
    document, and what `parts` raises."""
    text = bytearray()
    async for part in parts:
        if isinstance(part, bytes):
            text += part
            if len(text) > MAX_TEXT_BYTES:
                raise InvalidRequestError(
                    f"a document that is read in the background has at most "
                    f"{MAX_TEXT_BYTES >> 20} MiB; send it without detach, or in parts of their own "
                    "names",
                    field="chunk",
                )
            continue
        if part.keep_open:
            raise InvalidRequestError(
                "a document that is read in the background must be sent to its end",
                field="end.keep_open",
            )
        found = digested(known, text, True)
        if part.content_digest and found and found != part.content_digest:
            raise DocumentDiffersError(
                f"document '{document}' changed while it was sent; send it again",
                field="end.content_digest",
            )
    if not text and not known.committed_bytes:
        raise InvalidRequestError("the document is empty", field="chunk")
    return bytes(text)


async def _parts(text: bytes) -> AsyncIterator[bytes | End]:
    for start in range(0, len(text), _PIECE_BYTES):
        yield text[start : start + _PIECE_BYTES]
    yield End()
