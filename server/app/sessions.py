"""Sessions of one server: created, loaded, held by one turn at a time, erased.

Knows the store and the engine's interface. Locks and leases are in residency.py, commits in
commits.py, the turns themselves in turns.py. Transports (server/grpc_api) call these modules and
reach neither the store nor the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Mapping

from hope_runtime.checkpoints import model_name_of
from hope_runtime.engine.base import SessionEngine
from hope_runtime.errors import InvalidRequestError
from hope_runtime.session.codec import STATE_BLOB, decode_memory, encode_state
from hope_runtime.session.fold import due
from hope_runtime.session.log import Record, RecordKind
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.policy import LearningPolicy
from hope_runtime.tokenizer import Tokenizer
from server.app.base_models import ServedBase
from server.app.cancellation import complete
from server.app.commits import Commits
from server.app.events import ReplyCodec, Tell
from server.app.health import StoreWatch
from server.app.limits import SessionLimits
from server.app.quotas import Quotas
from server.app.reading_queue import reads_documents
from server.app.residency import Entry, JobRunningError, Residency, Resident
from server.app.summary import Summary, decode_summary
from server.store.base import (
    Head,
    Lease,
    LeaseLostError,
    NotFoundError,
    SessionKey,
    SessionStore,
    StaleRevisionError,
)
from server.telemetry.metrics import Metrics
from server.telemetry.tracing import NO_TRACES, Tracer

_log = logging.getLogger(__name__)

# More than a turn without learning writes: its record, its reply, the small state.
TURN_BYTES = 1 << 20
# A job whose server ended is taken up again by the next one that sees it.
JOB_RETRY_SECONDS = 1.0


class DrainingError(Exception):
    """The server takes no new work."""


class Sessions:
    """All sessions of one server. `replies` is the format in which replies are stored."""

    def __init__(
        self,
        store: SessionStore,
        engine: SessionEngine,
        limits: SessionLimits,
        *,
        replies: ReplyCodec,
        metrics: Metrics | None = None,
        tracer: Tracer = NO_TRACES,
    ) -> None:
        self.store = store
        self.engine = engine
        self.limits = limits
        self.replies = replies
        self.metrics = metrics or Metrics()
        self.tracer = tracer
        self.policies = engine.policies
        self.base = ServedBase(engine.model, model_name_of)
        self.fingerprint = self.base.fingerprint
        self.draining = False
        self.quotas = Quotas(store, self.limits)
        # Room for what a turn and a consolidation of all its levels may write.
        self.store_watch = StoreWatch(
            store,
            self.metrics,
            room_bytes=TURN_BYTES + max(map(engine.state_bytes_limit, self.policies.values())),
        )
        self.residency = Residency(store, engine, lease_seconds=self.limits.lease_seconds)
        self.commits = Commits(
            store,
            engine,
            quotas=self.quotas,
            store_watch=self.store_watch,
            keep_versions=self.limits.keep_versions,
            metrics=self.metrics,
            tracer=tracer,
        )
        self._upkeep: asyncio.Task[None] | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the model that is served."""
        return self.engine.model.tokenizer

    async def start(self) -> None:
        """Start the upkeep of leases, idle sessions and residency."""
        self._upkeep = asyncio.create_task(self._keep_up())

    async def drain(self, seconds: float) -> bool:
        """Refuse new work from now on; wait for running turns, for `seconds` at most. Returns
        whether any ran."""
        self.draining = True
        return await self.residency.idle(seconds)

    async def stop(self) -> None:
        """Finish running turns and learning, then release every session."""
        self.draining = True
        if self._upkeep:
            self._upkeep.cancel()
            await asyncio.wait([self._upkeep])
        await self.residency.close()

    # Sessions as a whole

    async def create(self, key: SessionKey, *, policy: str, display_name: str) -> Head:
        """Create a session. Raises InvalidRequestError for an unknown policy, QuotaExceededError,
        AlreadyExistsError."""
        self.admit()
        await self.quotas.check(key, new=True)
        memory = SessionMemory.fresh(self.fingerprint, self.policy(policy))
        return await self.store.create(
            key,
            fingerprint=self.fingerprint,
            policy=policy,
            display_name=display_name,
            blobs={STATE_BLOB: encode_state(memory)},
            summary=await asyncio.to_thread(self.commits.summary, memory),
        )

    async def head(self, key: SessionKey) -> Head:
        """A session as the store knows it now, whoever holds it. Raises NotFoundError."""
        return await self.store.head(key)

    async def page(self, user: str, *, page_size: int, page_token: str) -> tuple[list[Head], str]:
        """A page of a user's sessions, and the token of the next one, "" behind the last."""
        return await self.store.list_sessions(user, page_size=page_size, page_token=page_token)

    def resident_summaries(self) -> list[tuple[SessionKey, Summary]]:
        """Summaries of the sessions whose memory is loaded."""
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
        """Erase a session, and end its job. Raises StaleRevisionError when `etag` is outdated."""
        self.admit()
        async with self.residency.locked(key) as entry:
            if etag is not None and etag != (head := await self.store.head(key)).etag:
                raise StaleRevisionError(key, etag, head.etag)  # before a job is stopped for it
            await self._vacate(entry)
            await self.store.delete(key, etag=etag)

    async def delete_user(self, user: str) -> int:
        """Erase all sessions of a user, those in use after their turns. Returns their number."""
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
        self,
        key: SessionKey,
        tell: Tell = lambda _: None,
        *,
        learning_wait_seconds: float | None = None,
    ) -> AsyncIterator[Resident]:
        """Hold a session alone: leased, loaded, with everything learnt that was due. `tell` takes
        what this waits for.

        With `learning_wait_seconds` it may go on learning (`Resident.learning`) beside the caller,
        who then may only append turns, and commit them as Commits.turn says.

        Raises NotFoundError, LeaseHeldError, JobRunningError, DrainingError, and errors of a state
        that cannot be used.
        """
        self.admit()
        async with self.residency.locked(key, tell) as entry:
            try:
                self.admit()
                if entry.job is not None:
                    await entry.job.wait_or_refuse()
                if entry.resident is None:
                    entry.resident = await complete(self._load(key))
                resident = entry.resident
                self.commits.learn_later(resident)
                await self.commits.learning_ended(resident, tell, seconds=learning_wait_seconds)
                yield resident
                resident.used_at = time.monotonic()
            except (LeaseLostError, StaleRevisionError):
                # Another server owns the session now; the resident copy is outdated.
                entry.resident = None
                raise

    @contextlib.asynccontextmanager
    async def unloaded(self, key: SessionKey) -> AsyncIterator[Lease]:
        """Hold a session alone with its memory left in the store: for one that cannot be loaded."""
        self.admit()
        async with self.residency.locked(key) as entry:
            if entry.job is not None:
                await entry.job.wait_or_refuse()
            await self.residency.release(entry)
            lease = await self.residency.acquire(key)
            async with self.residency.kept(lease):
                yield lease

    # Residency

    async def _load(self, key: SessionKey) -> Resident:
        lease = await self.residency.acquire(key)
        try:
            head = await self.store.head(key)
            if head.job is not None and not reads_documents(head.job):
                raise JobRunningError(
                    f"a job of session {key} is about to resume; retry shortly", JOB_RETRY_SECONDS
                )
            self.base.check(f"session {key}", head.fingerprint)
            memory = self.decode(await self.store.read_blobs(key))
        except BaseException:
            await self.store.release(lease)
            raise
        return Resident(key, lease, head, memory, time.monotonic())

    def decode(self, blobs: Mapping[str, bytes]) -> SessionMemory:
        """Decode a memory from blobs, and check it against the base model."""
        memory = decode_memory(
            blobs,
            policies=self.policies,
            layout=self.engine.layout,
            fingerprint=self.fingerprint,
            former=self.base.former,
        )
        # The server that stored it may have had windows of another size.
        return self.engine.adapt(memory)

    async def _keep_up(self) -> None:
        while True:
            limits = self.limits
            await asyncio.sleep(min(limits.lease_seconds / 3, limits.idle_learning_seconds))
            for key, entry in list(self.residency.entries.items()):
                if entry.resident is None:
                    continue
                try:
                    await self._keep_up_one(key, entry, entry.resident)
                except Exception as error:  # one session must not end the upkeep of all
                    _log.warning("upkeep of a session failed: %s", error)
                self.residency.forget_empty(key)
            await self.residency.evict(self.limits.resident_sessions)

    async def _keep_up_one(self, key: SessionKey, entry: Entry, resident: Resident) -> None:
        try:
            lease_seconds = self.residency.lease_seconds
            resident.lease = await self.store.renew(resident.lease, lease_seconds)
        except LeaseLostError:
            if not entry.lock.locked():
                entry.resident = None
            return
        idle = time.monotonic() - resident.used_at
        if idle < self.limits.idle_learning_seconds or entry.lock.locked():
            return
        if not resident.memory.pending:
            return
        async with self.residency.locked(key):
            if entry.resident is resident and resident.learning is None:
                if due(resident.memory) is None:
                    await self.store_watch.require_room()
                    await self.commits.event(resident, Record(RecordKind.CONSOLIDATE))
                self.commits.learn_later(resident)

    def admit(self) -> None:
        """Raise DrainingError when the server takes no new work."""
        if self.draining:
            raise DrainingError("the server is shutting down; retry on another server, or later")
