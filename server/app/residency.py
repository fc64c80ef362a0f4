"""Residency: which sessions this server holds, and who uses them now.

For every session one lock (turns run one at a time), one lease (one server), and either one
resident memory or one job. Knows the store's leases and the engine's rows. What a memory is, and
how it becomes durable, is the business of sessions.py and jobs.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from hope_runtime.engine.base import SessionEngine
from hope_runtime.learning import Consolidation
from hope_runtime.session.memory import SessionMemory
from server.app.cancellation import complete
from server.app.events import Learning, Queued, Tell
from server.store.base import Head, Lease, SessionKey, SessionStore, StoreError


class JobRunningError(Exception):
    """A job is under way on the session, which takes nothing else meanwhile."""

    def __init__(self, message: str, retry_seconds: float) -> None:
        super().__init__(message)
        self.retry_seconds = retry_seconds


class Job(Protocol):
    """What is known here of a job: how to end it, and what others are told."""

    async def wait_or_refuse(self) -> None:
        """Raises JobRunningError while it is under way; waits for one that has ended to let go."""

    async def stop(self, reason: Exception) -> None:
        """Returns when it has let go of the session. Whoever watches it is told `reason`."""


@dataclass(eq=False, slots=True)
class Resident:
    """A session that this server holds: its lease, its head in the store, its memory."""

    key: SessionKey
    lease: Lease
    head: Head
    memory: SessionMemory
    used_at: float
    # Set while commit 2 of an earlier turn is under way, with how far it is.
    learning: asyncio.Task[list[Consolidation]] | None = None
    progress: Learning | None = None
    # Of the turn that waits for it: whoever holds the session, so there is one at most.
    listener: Tell | None = None

    def advance(self, progress: Learning) -> None:
        """Notes how far learning is, and tells the turn that waits for it."""
        self.progress = progress
        if self.listener is not None:
            self.listener(progress)

    @contextlib.contextmanager
    def listening(self, tell: Tell) -> Iterator[None]:
        """Tells how far learning is, now and during the block."""
        if self.progress is not None:
            tell(self.progress)
        self.listener = tell
        try:
            yield
        finally:
            self.listener = None


@dataclass(eq=False, slots=True)
class Entry:
    """A session that is held or asked for. Its holder holds the lock."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    # Calls that hold the lock or wait for it.
    users: int = 0
    resident: Resident | None = None
    job: Job | None = None


class Residency:
    """The sessions of one server process, which the store knows by a name of its own."""

    def __init__(self, store: SessionStore, engine: SessionEngine, *, lease_seconds: float) -> None:
        self.lease_seconds = lease_seconds
        self.entries: dict[SessionKey, Entry] = {}
        self._store = store
        self._engine = engine
        self._owner = uuid.uuid4().hex
        # Set while no call is on any session.
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def resident_count(self) -> int:
        """Sessions whose memory is here."""
        # A copy: a scrape asks from a thread of its own.
        return sum(entry.resident is not None for entry in [*self.entries.values()])

    @property
    def resident_bytes(self) -> int:
        """Bytes of the levels of the sessions whose memory is here."""
        residents = [entry.resident for entry in [*self.entries.values()]]
        return sum(resident.memory.nbytes for resident in residents if resident)

    async def idle(self, seconds: float) -> bool:
        """Returns when no call is on any session, or after `seconds`, and whether it had to wait
        for that."""
        if self._idle.is_set():
            return False
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)
        return True

    @contextlib.asynccontextmanager
    async def locked(self, key: SessionKey, tell: Tell = lambda _: None) -> AsyncIterator[Entry]:
        """The session's entry, alone; it goes with its last user when it holds nothing."""
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
        """Drops the entry of a session that is neither used nor held."""
        entry = self.entries.get(key)
        if entry and not entry.users and entry.resident is None and entry.job is None:
            del self.entries[key]

    async def acquire(self, key: SessionKey) -> Lease:
        """This server's lease on a session. Raises LeaseHeldError, NotFoundError."""
        return await self._store.acquire(key, self._owner, self.lease_seconds)

    @contextlib.asynccontextmanager
    async def kept(self, lease: Lease) -> AsyncIterator[None]:
        """Renews the lease during the block and releases it after."""

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
        """Ends residency: waits for learning, releases the lease. The entry's lock is held."""
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
        """Lets go of the sessions that were not used for longest, beyond `keep` of them."""
        residents = [entry.resident for entry in self.entries.values() if entry.resident]
        residents.sort(key=lambda resident: resident.used_at)
        for resident in residents[: max(0, len(residents) - keep)]:
            entry = self.entries.get(resident.key)
            if entry and not entry.users and not resident.learning:
                async with self.locked(resident.key):
                    await self.release(entry)

    async def close(self) -> None:
        """Lets go of every session, after what is on it."""
        for entry in list(self.entries.values()):
            async with entry.lock:
                await self.release(entry)
        self.entries.clear()
