"""The interface of a session store and its promises.

A store keeps, for each session, one *head* (the present state), the *versions*
it can go back to, an append-only *log*, the *replies* of recent requests, and at
most one *job* with what it has made so far.
It knows names, bytes and numbers. What a blob or a record means, how it is
encrypted, when to learn and whom to admit is left to its callers: a store never
sees a tensor, a token or a key.

Rules that hold for every store:

* Each method is one transaction: it happens wholly or not at all, and once it
  has returned, what it wrote survives the end of this process.
* A writer holds the session's lease. Expiry of a lease only lets others in;
  what keeps an earlier holder out is its fence, a number that grows with every
  lease the store ever grants and is never given twice. A holder that was paused
  past its lease is refused if anybody held the session since, and may go on if
  nobody did.
* Blobs are immutable and addressed by content. Heads, versions and jobs refer to
  them, so a fork and a rollback copy none, and a blob goes with its last reference.
  They are shared within a user and never between users.
* A cancelled caller does not know whether its call happened. A commit that is
  tried again with the same nonce is applied once.
* Time is the store's wall clock, in seconds since the epoch. Setting it back or forth costs
  no data and locks no session: see `acquire`.

Errors (misuse, such as a negative limit, is a ValueError):

StoreError
|-- NotFoundError           no such session, blob or job
|   |-- VersionNotFoundError   the session does not keep that version
|   `-- SnapshotNotFoundError  the session has no snapshot of that name
|-- AlreadyExistsError      the name is taken, the request was answered before, or
|                           there is another job
|   `-- SnapshotExistsError the session has a snapshot of that name
|-- LeaseHeldError          another owner holds the session; says who, how long
|-- LeaseLostError          this lease is no longer the session's
|-- StaleRevisionError      the session has moved on since it was read
|-- CorruptBlobError        a blob is not what was stored
|-- CorruptStoreError       the store itself cannot be read
|-- StoreFullError          no room or no right to write; nothing was changed
|-- StoreLostError          removed or replaced while it was open; nothing was changed
|-- StoreVersionError       written by a newer program
`-- StoreUnavailableError   closed, busy or out of reach; trying again may help
"""

from __future__ import annotations

from abc import abstractmethod
from types import TracebackType
from typing import Self

from server.store.arguments import MAX_PAGE_SIZE
from server.store.catalog import SessionCatalog
from server.store.errors import (
    AlreadyExistsError,
    CorruptBlobError,
    CorruptStoreError,
    LeaseHeldError,
    LeaseLostError,
    NotFoundError,
    SnapshotExistsError,
    SnapshotNotFoundError,
    StaleRevisionError,
    StoreError,
    StoreFullError,
    StoreLostError,
    StoreUnavailableError,
    StoreVersionError,
    VersionNotFoundError,
)
from server.store.history import SessionHistory
from server.store.jobs import SessionJobs
from server.store.leases import MAX_LEASE_SECONDS
from server.store.leasing import SessionLeases
from server.store.values import (
    BlobRef,
    Commit,
    Head,
    Job,
    Lease,
    LogRecord,
    Record,
    SessionKey,
    Snapshot,
    StoredReply,
    VersionInfo,
)

__all__ = [
    "MAX_LEASE_SECONDS",
    "MAX_PAGE_SIZE",
    "AlreadyExistsError",
    "BlobRef",
    "Commit",
    "CorruptBlobError",
    "CorruptStoreError",
    "Head",
    "Job",
    "Lease",
    "LeaseHeldError",
    "LeaseLostError",
    "LogRecord",
    "NotFoundError",
    "Record",
    "SessionKey",
    "SessionStore",
    "Snapshot",
    "SnapshotExistsError",
    "SnapshotNotFoundError",
    "StaleRevisionError",
    "StoreError",
    "StoreFullError",
    "StoreLostError",
    "StoreUnavailableError",
    "StoreVersionError",
    "StoredReply",
    "VersionInfo",
    "VersionNotFoundError",
]


class SessionStore(SessionCatalog, SessionLeases, SessionHistory, SessionJobs):
    """Durable home of sessions. Safe for many tasks of one event loop and for many
    processes at a time. Open it before use; also an async context manager."""

    @abstractmethod
    async def open(self) -> None:
        """Connect; make the store if there is none, bring an older one up to date.

        Raises CorruptStoreError, StoreVersionError, StoreFullError or
        StoreUnavailableError; the store is then not open."""

    @abstractmethod
    async def close(self) -> None:
        """Finish what has begun and let go. Twice does no harm; leases stay until
        they are released or expire."""

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @abstractmethod
    async def check_writable(self, room_bytes: int = 0) -> None:
        """Return when a change could be made now that adds `room_bytes`: for whoever is about to
        work long for it. Cheap, and no promise.

        Raises StoreFullError, StoreLostError or StoreUnavailableError."""

    @property
    @abstractmethod
    def schema_version(self) -> int:
        """Format that this program writes; what it opens is that or older."""

    @abstractmethod
    async def check_integrity(self) -> list[str]:
        """Every law of the store that is broken, in words; empty when it is sound.

        Blobs and references match one to one, bytes match their digests and sizes,
        logs are dense from 1 to the head's `log_seq`, the head's version is kept and
        the highest. Reads everything: for tests and for operators."""
