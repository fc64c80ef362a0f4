"""Residency: the sessions that this server holds.

Each has one lock (turns run one at a time), one lease (one server) and either a resident memory or
a job. Knows the store's leases and the engine's rows. Memories are loaded in sessions.py, made
durable in commits.py and rebuilt in jobs.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from hope_runtime.engine.base import SessionEngine
from hope_runtime.learning import Consolidation
from hope_runtime.session.memory import SessionMemory
from server.app.cancellation import complete
from server.app.events import Learning, Queued, Tell
from server.app.owner import has_ended, new_owner
from server.store.base import (
    Head,
    Lease,
    LeaseHeldError,
    SessionKey,
    SessionStore,
    StoreError,
)

_log = logging.getLogger(__name__)


class JobRunningError(Exception):
    """A job is under way on the session, which takes nothing else meanwhile."""

    def __init__(self, message: str, retry_seconds: float) -> None:
        super().__init__(message)
        self.retry_seconds = retry_seconds


class Job(Protocol):
    """The part of a job that residency uses."""

    async def wait_or_refuse(self) -> None:
        """Raise JobRunningError while it is under way; wait until one that is over has released
        the session."""

    async def stop(self, reason: Exception) -> None:
        """End it; returns when it has released the session. Its watchers get `reason`."""


@dataclass(eq=False, slots=True)
class Resident:
    """A session in memory: its lease, its head in the store, and its memory."""

    key: SessionKey
    lease: Lease
    head: Head
    memory: SessionMemory
    used_at: float
    # Set while commit 2 of an earlier turn is under way, with how far it is.
    learning: asyncio.Task[list[Consolidation]] | None = None
    progress: Learning | None = None
    # Held while a commit is under way: a turn's may meet that of learning beside it.
    committing: asyncio.Lock = field(default_factory=asyncio.Lock)
    # Of the turn that waits for it: whoever holds the session, so there is one at most.
    listener: Tell | None = None

    def advance(self, progress: Learning) -> None:
        """Record the progress of learning, and tell the turn that waits for it."""
        self.progress = progress
        if self.listener is not None:
            self.listener(progress)

    @contextlib.contextmanager
    def listening(self, tell: Tell) -> Iterator[None]:
        """Tell the progress of learning, now and during the block."""
        if self.progress is not None:
            tell(self.progress)
        self.listener = tell
        try:
            yield
        finally:
            self.listener = None


@dataclass(eq=False, slots=True)
class Entry:
    """A session that is resident or in use. Its user holds the lock."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    # Calls that hold the lock or wait for it.
    users: int = 0
    resident: Resident | None = None
    job: Job | None = None


class Residency:
    """Sessions of one server process. The store knows the process by its name as an owner."""

    def __init__(self, store: SessionStore, engine: SessionEngine, *, lease_seconds: float) -> None:
        self.lease_seconds = lease_seconds
        self.entries: dict[SessionKey, Entry] = {}
        self._store = store
        self._engine = engine
        self._owner = new_owner()
        # Set while no call is on any session.
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def resident_count(self) -> int:
        """Number of sessions whose memory is loaded."""
        # A copy: a scrape asks from a thread of its own.
        return sum(entry.resident is not None for entry in [*self.entries.values()])

    @property
    def resident_bytes(self) -> int:
        """Bytes of the levels of these sessions."""
        residents = [entry.resident for entry in [*self.entries.values()]]
        return sum(resident.memory.nbytes for resident in residents if resident)

    async def idle(self, seconds: float) -> bool:
        """Wait until no session is in use, for `seconds` at most. Returns whether any was."""
        if self._idle.is_set():
            return False
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)
        return True

    @contextlib.asynccontextmanager
    async def locked(self, key: SessionKey, tell: Tell = lambda _: None) -> AsyncIterator[Entry]:
        """Hold a session's lock. Its entry is dropped with its last user if it holds nothing."""
        entry = self.entries.setdefault(key, Entry())
        if entry.lock.locked():
            tell(Queued())
        entry.users += 1
        self._idle.clear()
        try:
            async with entry.lock:
                yield entry
        finally:
            entry.users -= 1
            self.forget_empty(key)
            if not any(other.users for other in self.entries.values()):
                self._idle.set()

    def forget_empty(self, key: SessionKey) -> None:
        """Drop the entry of a session that is neither in use nor resident."""
        entry = self.entries.get(key)
        if entry and not entry.users and entry.resident is None and entry.job is None:
            del self.entries[key]

    async def acquire(self, key: SessionKey) -> Lease:
        """Take this server's lease on a session, at once when its owner was a process of this
        machine that has ended. Raises LeaseHeldError, NotFoundError."""
        try:
            return await self._store.acquire(key, self._owner, self.lease_seconds)
        except LeaseHeldError as held:
            if not has_ended(held.owner):
                raise
            _log.info("took a session over from %s, which has ended", held.holder)
            return await self._store.acquire(
                key, self._owner, self.lease_seconds, ended_owner=held.owner
            )

    @contextlib.asynccontextmanager
    async def kept(self, lease: Lease) -> AsyncIterator[None]:
        """Renew the lease during the block and release it after."""

        async def keep() -> None:
            while True:
                await asyncio.sleep(self.lease_seconds / 3)
                with contextlib.suppress(StoreError):  # the next commit will tell
                    await self._store.renew(lease, self.lease_seconds)

        keeper = asyncio.create_task(keep())
        try:
            yield
        finally:
            keeper.cancel()
            with contextlib.suppress(StoreError):
                await complete(self._store.release(lease))

    async def release(self, entry: Entry) -> None:
        """End residency: wait for learning, release the lease. The caller holds the lock."""
        resident, entry.resident = entry.resident, None
        if resident is None:
            return
        if resident.learning:
            await asyncio.wait([resident.learning])
        for name in resident.memory.conversations:
            self._engine.drop((resident.key, name))
        with contextlib.suppress(StoreError):
            await self._store.release(resident.lease)

    async def evict(self, keep: int) -> None:
        """Release the least recently used sessions beyond `keep` of them."""
        residents = [entry.resident for entry in self.entries.values() if entry.resident]
        residents.sort(key=lambda resident: resident.used_at)
        for resident in residents[: max(0, len(residents) - keep)]:
            entry = self.entries.get(resident.key)
            if entry and not entry.users and not resident.learning:
                async with self.locked(resident.key):
                    await self.release(entry)

    async def close(self) -> None:
        """Release every session, each after its present turn."""
        for entry in list(self.entries.values()):
            async with entry.lock:
                await self.release(entry)
        self.entries.clear()
