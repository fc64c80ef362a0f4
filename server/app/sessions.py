"""Sessions: who may change which memory when, and in what order it becomes durable.

A turn is two commits. The first makes it durable: log and context. The second is learning, a pure
function of what the first stored, so a crash between them loses nothing: whoever loads the session
next finds it due and does it again.

Knows the store and the engine's interface. Who holds a session is residency.py's business, what
turns are made of that of turns.py, how they arrive that of services/.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any

from hope_runtime.engine.base import SessionEngine
from hope_runtime.errors import FingerprintMismatchError, InvalidRequestError
from hope_runtime.learning import Consolidation
from hope_runtime.session.codec import STATE_BLOB, changed_blobs, decode_memory, encode_state
from hope_runtime.session.fold import due
from hope_runtime.session.log import Record, RecordKind
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.policy import LearningPolicy
from server.app.cancellation import complete, result_of
from server.app.quotas import Quotas
from server.app.residency import Entry, JobRunningError, OnStatus, Residency, Resident, Status
from server.app.summary import Summary, decode_summary, encode_summary
from server.store.base import (
    Commit,
    Head,
    Lease,
    LeaseLostError,
    NotFoundError,
    SessionKey,
    SessionStore,
    StaleRevisionError,
    StoredReply,
    StoreError,
    StoreUnavailableError,
)
from server.store.base import Record as StoredRecord
from server.telemetry.metrics import Metrics
from server.telemetry.tracing import NO_TRACES, Tracer

_log = logging.getLogger(__name__)

COMMIT_ATTEMPTS = 5
# A job whose server ended is taken up again by the next one that sees it.
JOB_RETRY_SECONDS = 1.0


class DrainingError(Exception):
    """The server takes no new work."""


class Sessions:
    """All sessions of one server. `owner` names this process to the store."""

    def __init__(
        self,
        store: SessionStore,
        engine: SessionEngine,
        *,
        lease_seconds: float = 30,
        idle_learning_seconds: float = 300,
        resident_sessions: int = 64,
        keep_versions: int = 8,
        session_quota_bytes: int = 0,
        user_quota_bytes: int = 0,
        user_quota_sessions: int = 0,
        user_quota_tokens_per_minute: int = 0,
        metrics: Metrics | None = None,
        tracer: Tracer = NO_TRACES,
    ) -> None:
        self.store = store
        self.engine = engine
        self.metrics = metrics or Metrics()
        self.tracer = tracer
        self.policies = engine.policies
        self.fingerprint = engine.model.fingerprint
        self.draining = False
        self._keep_versions = keep_versions
        self.quotas = Quotas(
            store,
            session_quota_bytes,
            user_quota_bytes,
            user_quota_sessions,
            user_quota_tokens_per_minute,
        )
        self.residency = Residency(store, engine, lease_seconds=lease_seconds)
        self._idle_seconds = idle_learning_seconds
        self._max_resident = resident_sessions
        self._upkeep: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins the upkeep of leases, of idle sessions and of what is resident."""
        self._upkeep = asyncio.create_task(self._keep_up())

    async def drain(self, seconds: float) -> bool:
        """Refuses new work from now on; returns when what runs has ended, or after `seconds`, and
        whether anything ran."""
        self.draining = True
        return await self.residency.idle(seconds)

    async def stop(self) -> None:
        """Finishes what runs, then lets go of every session. Learning under way is finished."""
        self.draining = True
        if self._upkeep:
            self._upkeep.cancel()
            await asyncio.wait([self._upkeep])
        await self.residency.close()

    # Sessions as a whole

    async def create(self, key: SessionKey, *, policy: str, display_name: str) -> Head:
        """A fresh session. Raises InvalidRequestError for an unknown policy, QuotaExceededError."""
        self.admit()
        await self.quotas.check(key, new=True)
        memory = SessionMemory.fresh(self.fingerprint, self.policy(policy))
        return await self.store.create(
            key,
            fingerprint=self.fingerprint,
            policy=policy,
            display_name=display_name,
            blobs={STATE_BLOB: encode_state(memory)},
            summary=await asyncio.to_thread(self.summary, memory),
        )

    def summary(self, memory: SessionMemory) -> bytes:
        """What a store keeps beside a memory."""
        return encode_summary(memory, self.engine.change(None, memory))

    def resident_summaries(self) -> list[tuple[SessionKey, Summary]]:
        """Summaries of the sessions whose memory is here."""
        residents = [entry.resident for entry in self.residency.entries.values()]
        return [(each.key, decode_summary(each.head.summary)) for each in residents if each]

    def policy(self, name: str) -> LearningPolicy:
        """A policy by its name. Raises InvalidRequestError when there is none."""
        if name not in self.policies:
            known = ", ".join(sorted(self.policies))
            raise InvalidRequestError(
                f"policy '{name}' does not exist; available policies: {known}", field="policy"
            )
        return self.policies[name]

    async def delete(self, key: SessionKey, etag: str | None) -> None:
        """Erases a session, and what is under way on it."""
        self.admit()
        async with self.residency.locked(key) as entry:
            if etag is not None and etag != (head := await self.store.head(key)).etag:
                raise StaleRevisionError(key, etag, head.etag)  # before a job is stopped for it
            await self._vacate(entry)
            await self.store.delete(key, etag=etag)

    async def delete_user(self, user: str) -> int:
        """Erases all sessions of a user, those that are in use here after their turns."""
        self.admit()
        mine = [key for key in self.residency.entries if key.user == user]
        async with contextlib.AsyncExitStack() as stack:
            for key in sorted(mine):
                await self._vacate(await stack.enter_async_context(self.residency.locked(key)))
            return await self.store.delete_user(user)

    async def _vacate(self, entry: Entry) -> None:
        if entry.job is not None:
            await entry.job.stop(NotFoundError("the session was deleted"))
        await self.residency.release(entry)

    @contextlib.asynccontextmanager
    async def exclusive(
        self, key: SessionKey, on_status: OnStatus = lambda _: None
    ) -> AsyncIterator[Resident]:
        """The session, alone: loaded, leased, with everything learnt that was due.

        Raises NotFoundError, LeaseHeldError, JobRunningError, or why its state cannot be used.
        """
        self.admit()
        async with self.residency.locked(key, on_status) as entry:
            try:
                self.admit()
                if entry.job is not None:
                    await entry.job.wait_or_refuse()
                if entry.resident is None:
                    entry.resident = await complete(self._load(key))
                resident = entry.resident
                self.learn_later(resident)
                if resident.learning:
                    on_status(Status.LEARNING)
                    # Learning that failed was logged, and stays due; it must not end a turn.
                    await asyncio.wait([resident.learning])
                yield resident
                resident.used_at = time.monotonic()
            except (LeaseLostError, StaleRevisionError):
                # Somebody else owns the session now; what is here is out of date.
                entry.resident = None
                raise

    @contextlib.asynccontextmanager
    async def unloaded(self, key: SessionKey) -> AsyncIterator[Lease]:
        """The session, alone, with its memory left in the store: for what cannot be loaded."""
        self.admit()
        async with self.residency.locked(key) as entry:
            if entry.job is not None:
                await entry.job.wait_or_refuse()
            await self.residency.release(entry)
            lease = await self.residency.acquire(key)
            async with self.residency.kept(lease):
                yield lease

    # The two commits

    async def commit_turn(
        self,
        resident: Resident,
        record: Record,
        memory: SessionMemory,
        reply: StoredReply | None = None,
    ) -> None:
        """Commit 1: the record becomes part of the log, and `memory` is what is known after it."""

        async def commit() -> None:
            await self._commit(resident, memory, [record], reply)
            try:
                await self.quotas.charge(resident.head.key.user, record.learnable_tokens)
            except StoreError as error:  # the turn is durable all the same
                _log.warning("could not count learnt tokens against the quota: %s", error)

        await complete(commit())

    async def commit_event(self, resident: Resident, record: Record) -> None:
        """Commit 1 of what nobody waits for an answer to."""
        memory = await result_of(self.engine.observe(resident.memory, record))
        await self.commit_turn(resident, record, memory)

    async def rename(self, resident: Resident, display_name: str) -> None:
        """Changes what people call a session; its memory is the same."""
        work = self._commit(resident, resident.memory, [], display_name=display_name)
        await complete(work)

    def learn_later(self, resident: Resident) -> None:
        """Starts commit 2 if something is due. No deadline or cancellation reaches it."""
        if resident.learning is None and due(resident.memory) is not None:
            resident.learning = asyncio.create_task(self._learn(resident))
            resident.learning.add_done_callback(_log_failure)

    async def learnt(self, resident: Resident) -> list[Consolidation]:
        """Waits for commit 2 and says what it did."""
        self.learn_later(resident)
        return await asyncio.shield(resident.learning) if resident.learning else []

    async def _learn(self, resident: Resident) -> list[Consolidation]:
        try:
            memory = resident.memory
            reports = []
            while (boundary := due(memory)) is not None:
                with self.tracer.span("learn", level=boundary.level):
                    ticket = self.engine.consolidate(memory, boundary)
                    memory, report = await result_of(ticket)
                reports.append(report)
            version = resident.head.version + memory.learnt_since(resident.memory)
            records = [
                Record(RecordKind.CONSOLIDATION, notes=report.notes() | {"version": version})
                for report in reports
            ]
            await self._commit(resident, memory, records)
            self.metrics.learnt(reports, decode_summary(resident.head.summary))
            return reports
        except Exception:
            self.metrics.learning_failures.inc()
            raise
        finally:
            resident.learning = None

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
            display_name=display_name,
            records=[StoredRecord(record.kind, record.encode()) for record in records],
            reply=reply,
        )
        with self.tracer.span("commit", version=commit.version), self.metrics.commit():
            resident.head = await self.retried(lambda: self.store.commit(resident.lease, commit))
        resident.memory = memory
        if learnt:
            await self.collect(resident.key)

    async def collect(self, key: SessionKey) -> None:
        """Forgets old versions, after a new one was made. What fails is done after the next."""
        try:
            await self.store.collect(key, keep_recent=self._keep_versions)
        except StoreError as error:
            _log.warning(
                "could not collect old versions of a session; retrying after the next version: %s",
                error,
            )

    async def retried(self, call: Callable[[], Coroutine[Any, Any, Head]]) -> Head:
        """A commit may be tried again: its nonce makes it happen once."""
        for attempt in range(COMMIT_ATTEMPTS):
            try:
                return await call()
            except StoreUnavailableError:
                if attempt == COMMIT_ATTEMPTS - 1:
                    raise
                self.metrics.store_retries.inc()
                await asyncio.sleep(0.05 * 2**attempt)
        raise AssertionError("unreachable")

    # Residency

    async def _load(self, key: SessionKey) -> Resident:
        lease = await self.residency.acquire(key)
        try:
            head = await self.store.head(key)
            if head.job is not None:
                raise JobRunningError(
                    f"a job of session {key} is about to resume; retry shortly", JOB_RETRY_SECONDS
                )
            if head.fingerprint != self.fingerprint:
                raise FingerprintMismatchError(
                    f"session {key} was learnt on another base model ({head.fingerprint[:12]}); "
                    "serve that model to use it"
                )
            memory = self.decode(await self.store.read_blobs(key))
        except BaseException:
            await self.store.release(lease)
            raise
        return Resident(key, lease, head, memory, time.monotonic())

    def decode(self, blobs: Mapping[str, bytes]) -> SessionMemory:
        """The memory that a store's blobs hold, checked against the base model."""
        memory = decode_memory(
            blobs,
            policies=self.policies,
            layout=self.engine.layout,
            fingerprint=self.fingerprint,
        )
        # The server that wrote them may have had windows of another size.
        return self.engine.adapt(memory)

    async def _keep_up(self) -> None:
        while True:
            await asyncio.sleep(min(self.residency.lease_seconds / 3, self._idle_seconds))
            for key, entry in list(self.residency.entries.items()):
                if entry.resident is None:
                    continue
                try:
                    await self._keep_up_one(key, entry, entry.resident)
                except Exception as error:  # one session must not end the upkeep of all
                    _log.warning("upkeep of a session failed: %s", error)
                self.residency.forget_empty(key)
            await self.residency.evict(self._max_resident)

    async def _keep_up_one(self, key: SessionKey, entry: Entry, resident: Resident) -> None:
        try:
            lease_seconds = self.residency.lease_seconds
            resident.lease = await self.store.renew(resident.lease, lease_seconds)
        except LeaseLostError:
            if not entry.lock.locked():
                entry.resident = None
            return
        idle = time.monotonic() - resident.used_at
        if idle < self._idle_seconds or entry.lock.locked() or not resident.memory.pending:
            return
        async with self.residency.locked(key):
            if entry.resident is resident and resident.learning is None:
                if due(resident.memory) is None:
                    await self.commit_event(resident, Record(RecordKind.CONSOLIDATE))
                self.learn_later(resident)

    def admit(self) -> None:
        """Raises DrainingError when the server takes no new work."""
        if self.draining:
            raise DrainingError("the server is shutting down; retry on another server, or later")


def _log_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("learning failed and will be retried", exc_info=error)
