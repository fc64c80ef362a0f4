"""Commits: the order in which changes of a session become durable.

A turn is two commits. The first makes it durable: log and context. The second is learning, a pure
function of what the first stored, so a crash between them loses nothing: whoever loads the session
next finds it due and does it again.

Every method expects a session that its caller holds alone (sessions.py).
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from hope_runtime.engine.base import SessionEngine
from hope_runtime.engine.request import Request
from hope_runtime.learning import Consolidation
from hope_runtime.session.codec import changed_blobs
from hope_runtime.session.fold import due, with_learning
from hope_runtime.session.log import Record, RecordKind
from hope_runtime.session.memory import SessionMemory
from server.app.cancellation import complete, result_of
from server.app.events import Learning, Tell
from server.app.health import StoreWatch
from server.app.quotas import Quotas
from server.app.residency import Resident
from server.app.summary import decode_summary, encode_summary
from server.store.base import (
    Commit,
    Head,
    SessionKey,
    SessionStore,
    StoredReply,
    StoreError,
    StoreUnavailableError,
)
from server.store.base import Record as StoredRecord
from server.telemetry.metrics import Metrics
from server.telemetry.tracing import Tracer

_log = logging.getLogger(__name__)

COMMIT_ATTEMPTS = 5
# Between two looks at how far a consolidation is; people look on.
PROGRESS_SECONDS = 0.2
_Result = TypeVar("_Result")


class Commits:
    """Makes changes of sessions durable, and learning follow them."""

    def __init__(
        self,
        store: SessionStore,
        engine: SessionEngine,
        *,
        quotas: Quotas,
        store_watch: StoreWatch,
        keep_versions: int,
        metrics: Metrics,
        tracer: Tracer,
    ) -> None:
        self._store = store
        self._engine = engine
        self._quotas = quotas
        self._store_watch = store_watch
        self._keep_versions = keep_versions
        self._metrics = metrics
        self._tracer = tracer

    async def turn(
        self,
        resident: Resident,
        record: Record,
        memory: SessionMemory,
        reply: StoredReply | None = None,
        *,
        began: SessionMemory | None = None,
    ) -> None:
        """Commit 1: appends `record` to the log; `memory` is the session's after it.

        `began` is the memory that the turn began with, if the session may have learnt meanwhile.
        """
        record = replace(record, time=int(time.time()))

        async def commit() -> None:
            async with resident.committing:
                after = memory
                if began is not None and resident.memory is not began:
                    after = with_learning(began, resident.memory, memory)
                await self._commit(resident, after, [record], reply)
            try:
                await self._quotas.charge(resident.key.user, record.learnable_tokens)
            except StoreError as error:  # the turn is durable all the same
                _log.warning("could not count learnt tokens against the quota: %s", error)

        await complete(commit())

    async def event(self, resident: Resident, record: Record) -> None:
        """Commit 1 of a record that asks for no answer, such as a flush or a reset."""
        memory = await result_of(self._engine.observe(resident.memory, record))
        await self.turn(resident, record, memory)

    async def rename(self, resident: Resident, display_name: str) -> None:
        """Changes the display name; the memory stays the same."""

        async def commit() -> None:
            async with resident.committing:
                await self._commit(resident, resident.memory, [], display_name=display_name)

        await complete(commit())

    def learn_later(self, resident: Resident) -> None:
        """Start commit 2 if something is due. No deadline or cancellation reaches it."""
        boundary = due(resident.memory)
        if resident.learning is None and boundary is not None:
            resident.progress = Learning(boundary.level)
            resident.learning = asyncio.create_task(self._learn(resident))
            resident.learning.add_done_callback(_log_failure)

    async def learning_ended(
        self, resident: Resident, tell: Tell, *, seconds: float | None = None
    ) -> bool:
        """Wait for learning that is due or under way, for `seconds` at most. Returns whether none
        is left.

        A failure was logged, and what failed stays due: it must not end a turn.
        """
        self.learn_later(resident)
        if resident.learning is None:
            return True
        with resident.listening(tell):
            await asyncio.wait([resident.learning], timeout=seconds)
        return resident.learning is None

    async def learnt(self, resident: Resident, tell: Tell = lambda _: None) -> list[Consolidation]:
        """Wait for commit 2; returns a report of each consolidation."""
        self.learn_later(resident)
        return await self.reports(resident, tell)

    async def reports(self, resident: Resident, tell: Tell = lambda _: None) -> list[Consolidation]:
        """Wait for learning that is under way, as a caller may who no longer holds the session;
        returns a report of each consolidation."""
        if resident.learning is None:
            return []
        with resident.listening(tell):
            return await asyncio.shield(resident.learning)

    async def collect(self, key: SessionKey) -> None:
        """Drop old versions after a new one was made. A failure is left to the next call."""
        try:
            await self._store.collect(key, keep_recent=self._keep_versions)
        except StoreError as error:
            _log.warning(
                "could not collect old versions of a session; retrying after the next version: %s",
                error,
            )

    async def retried(self, call: Callable[[], Coroutine[Any, Any, Head]]) -> Head:
        """Repeat a commit while the store is unavailable: its nonce makes it happen once."""
        for attempt in range(COMMIT_ATTEMPTS):
            try:
                return await call()
            except StoreUnavailableError:
                if attempt == COMMIT_ATTEMPTS - 1:
                    raise
                self._metrics.store_retries.inc()
                await asyncio.sleep(0.05 * 2**attempt)
        raise AssertionError("unreachable")

    def summary(self, memory: SessionMemory) -> bytes:
        """The summary that a store keeps beside a memory."""
        return encode_summary(memory, self._engine.change(None, memory))

    async def _learn(self, resident: Resident) -> list[Consolidation]:
        try:
            await self._store_watch.require_room()
            before = memory = resident.memory
            reports = []
            while (boundary := due(memory)) is not None:
                if resident.progress != (progress := Learning(boundary.level)):
                    resident.advance(progress)
                with self._tracer.span("learn", level=boundary.level):
                    request = self._engine.consolidate(memory, boundary)
                    memory, report = await self._watched(resident, boundary.level, request)
                reports.append(report)
            async with resident.committing:
                if resident.memory is not before:
                    memory = with_learning(before, memory, resident.memory)
                version = resident.head.version + memory.learnt_since(resident.memory)
                records = [
                    Record(RecordKind.CONSOLIDATION, notes=report.notes() | {"version": version})
                    for report in reports
                ]
                await self._commit(resident, memory, records)
            self._metrics.learnt(reports, decode_summary(resident.head.summary).levels)
            return reports
        except Exception:
            self._metrics.learning_failures.inc()
            raise
        finally:
            resident.learning = resident.progress = None

    async def _watched(self, resident: Resident, level: int, request: Request[_Result]) -> _Result:
        """Wait for a consolidation, and tell how far it is."""
        waiting = asyncio.ensure_future(result_of(request))
        try:
            while not (await asyncio.wait([waiting], timeout=PROGRESS_SECONDS))[0]:
                now = Learning(level, request.progress)
                if resident.progress != now:
                    resident.advance(now)
            return waiting.result()
        finally:
            if not waiting.done():
                waiting.cancel()
                await asyncio.wait([waiting])  # its row is free then

    async def _commit(
        self,
        resident: Resident,
        memory: SessionMemory,
        records: Sequence[Record],
        reply: StoredReply | None = None,
        display_name: str | None = None,
    ) -> None:
        head = resident.head
        blobs, gone = await asyncio.to_thread(changed_blobs, resident.memory, memory)
        learnt = memory.learnt_since(resident.memory)
        summary = await asyncio.to_thread(self.summary, memory)
        commit = Commit(
            expected_revision=head.revision,
            nonce=uuid.uuid4().hex,
            version=head.version + learnt,
            summary=summary,
            put_blobs=blobs,
            drop_blobs=gone,
            # A policy that was renamed since is called by its present name.
            policy=None if memory.policy.name == head.policy else memory.policy.name,
            display_name=display_name,
            records=[StoredRecord(record.kind, record.encode()) for record in records],
            reply=reply,
        )
        with self._tracer.span("commit", version=commit.version), self._metrics.commit():
            resident.head = await self.retried(lambda: self._store.commit(resident.lease, commit))
        resident.memory = memory
        if learnt:
            await self.collect(resident.key)


def _log_failure(task: asyncio.Task[Any]) -> None:
    if task.cancelled() or (error := task.exception()) is None:
        return
    if isinstance(error, StoreError):
        _log.warning("learning is deferred: %s", error)
    else:
        _log.error("learning failed and will be retried", exc_info=error)
