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

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Self

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
from server.store.leases import MAX_LEASE_SECONDS
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

MAX_PAGE_SIZE = 1000


class SessionStore(ABC):
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

    # Sessions

    @abstractmethod
    async def create(
        self,
        key: SessionKey,
        *,
        fingerprint: str,
        policy: str,
        display_name: str = "",
        blobs: Mapping[str, bytes],
        summary: bytes,
    ) -> Head:
        """Make a session at revision 1 and version 0, with an empty log. Needs no
        lease. Raises AlreadyExistsError."""

    @abstractmethod
    async def head(self, key: SessionKey) -> Head:
        """The present state. Raises NotFoundError."""

    @abstractmethod
    async def list_sessions(
        self, user: str, *, page_size: int = 50, page_token: str = ""
    ) -> tuple[list[Head], str]:
        """A page of a user's sessions in the order of their names (by code point), and
        the token of the next page, empty on the last one.

        A session that is there throughout is listed once, whatever is created or
        deleted between two pages. `page_size` is 1 to MAX_PAGE_SIZE. An unknown user
        has no sessions."""

    @abstractmethod
    async def delete(self, key: SessionKey, *, etag: str | None = None) -> None:
        """Erase a session: head, log, versions, replies, lease, and the blobs that
        no other session refers to. Needs no lease: a holder finds out when it
        commits. Raises NotFoundError, or StaleRevisionError when `etag` is given and
        is not the head's."""

    @abstractmethod
    async def delete_user(self, user: str) -> int:
        """Erase every session of a user; returns how many there were."""

    @abstractmethod
    async def user_bytes(self, user: str) -> int:
        """Bytes stored for a user: of every blob, counted once, and of every log. Replies do
        not count, here and in `Head.stored_bytes`: they go by themselves. 0 for an unknown user."""

    @abstractmethod
    async def user_sessions(self, user: str) -> int:
        """Number of sessions of a user."""

    @abstractmethod
    async def fingerprints(self, *, limit: int = 10_000) -> dict[str, int]:
        """Number of sessions, of all users, by the fingerprint of their head. At most `limit`
        sessions are looked at, so that starting a server on a large store stays cheap."""

    @abstractmethod
    async def draw(self, user: str, amount: float, *, capacity: float, per_second: float) -> float:
        """Takes `amount` from the user's bucket and returns what is left, which may be below zero.

        The bucket begins with `capacity`, and gets `per_second` (above zero) up to that. It stays
        when the user is erased, or erasing would fill it, and is forgotten a day after it was last
        drawn from at the latest. Without an answer it may have been drawn from, once."""

    # Leases

    @abstractmethod
    async def acquire(
        self, key: SessionKey, owner: str, ttl_seconds: float, *, ended_owner: str = ""
    ) -> Lease:
        """Take the session for `ttl_seconds`, under a new fence; earlier leases are lost.

        The owner that holds it already may take it again, and a lease of `ended_owner`, which
        the caller knows to run no more, holds nobody up. Raises LeaseHeldError while another
        owner's lease has not expired, NotFoundError.

        `ttl_seconds` is at most MAX_LEASE_SECONDS. A lease that ends further ahead was granted
        before the clock was set back, and is void; one that is found again unrenewed lasts no
        longer than it did when this store first met it, whatever the clock says."""

    @abstractmethod
    async def renew(self, lease: Lease, ttl_seconds: float) -> Lease:
        """Hold on for `ttl_seconds` from now, under the same fence; also after expiry,
        if nobody was granted the session since. Raises LeaseLostError, NotFoundError."""

    @abstractmethod
    async def release(self, lease: Lease) -> None:
        """Let others in at once. A lease that is lost already, or whose session is
        gone, is no error."""

    # Changes, all under a lease

    @abstractmethod
    async def commit(self, lease: Lease, commit: Commit) -> Head:
        """Apply one change and return the new head, at `expected_revision + 1`.

        When `commit.version` is new, the resulting state is kept as a version to go
        back to. Blobs whose content is stored already are not written again.

        The nonce of the last commit (or rollback) is remembered: the same one again
        returns the head that it made, whatever became of the lease. An older one is
        refused like any other stale change, so nothing is ever applied twice.

        In this order: NotFoundError; LeaseLostError; StaleRevisionError; ValueError
        when `version` is neither the head's nor the next; AlreadyExistsError when
        `reply.request_id` has a reply that has not expired."""

    @abstractmethod
    async def rollback(
        self,
        lease: Lease,
        *,
        expected_revision: int,
        nonce: str,
        to_version: int,
        record: Record,
        summary: bytes | None = None,
    ) -> Head:
        """Make the state of `to_version` the present one, under a new version number
        whose parent is `to_version`. Copies no blob.

        Blobs, fingerprint, policy and, unless given, summary are the target's. The log
        is append-only and goes on growing: `record` says where the memory continues
        from. Replies stay,
        so that a turn which was undone is not taught again by a late retry.

        Idempotent by nonce and guarded like `commit`; NotFoundError also when
        `to_version` is not kept (`versions` lists what is)."""

    # Reading

    @abstractmethod
    async def read_blobs(
        self, key: SessionKey, names: Sequence[str] | None = None, *, version: int | None = None
    ) -> dict[str, bytes]:
        """Blobs of the head, or of a kept version, checked against size and digest;
        all of them, or the named ones.

        Raises NotFoundError for the session, the version or a name, and
        CorruptBlobError."""

    @abstractmethod
    async def read_log(
        self, key: SessionKey, *, after_seq: int = 0, limit: int = 1000
    ) -> list[LogRecord]:
        """Up to `limit` records after `after_seq`, in order. Raises NotFoundError."""

    @abstractmethod
    async def find_reply(self, key: SessionKey, request_id: str) -> StoredReply | None:
        """The reply committed under `request_id`, None when there is none or it has
        expired. Raises NotFoundError."""

    # Versions

    @abstractmethod
    async def versions(self, key: SessionKey) -> list[VersionInfo]:
        """The kept versions, oldest first; the head's version is always the last of
        them. Raises NotFoundError."""

    @abstractmethod
    async def fork(
        self,
        source: SessionKey,
        target: SessionKey,
        *,
        version: int | None = None,
        summary: bytes | None = None,
    ) -> Head:
        """Make a session that begins where another one is, or was at `version`.

        Blobs are shared and log records up to that state are copied. The new head is
        at revision 1 and keeps the version number, for the log speaks of it; the
        state it starts from is its only kept version. Unless given, the summary is that
        state's. The display name is the source's; replies, lease and job are not taken
        along. Needs no lease on the source.

        Raises NotFoundError, AlreadyExistsError; ValueError when the users differ."""

    @abstractmethod
    async def collect(self, key: SessionKey, keep_recent: int) -> int:
        """Forget versions beyond the `keep_recent` newest (at least 1) and the blobs
        that only they referred to; returns how many versions went.

        The parent of the present version is kept too, so that one step back is
        always possible, and so is every version that a snapshot names. Needs no
        lease: the head and its log stay as they are.

        A call and not a part of `commit`, so that the acknowledgement of a turn does
        not wait for it and the number to keep is the caller's policy. Raises
        NotFoundError."""

    # Snapshots

    @abstractmethod
    async def snapshot(self, key: SessionKey, name: str) -> Snapshot:
        """Name the present version, so that `collect` keeps it. Needs no lease: the head stays
        as it is. A fork takes no names along.

        Raises NotFoundError, SnapshotExistsError."""

    @abstractmethod
    async def snapshots(
        self, key: SessionKey, *, page_size: int = 50, page_token: str = ""
    ) -> tuple[list[Snapshot], str]:
        """A page of a session's snapshots in the order of their names, as `list_sessions`.
        Raises NotFoundError."""

    @abstractmethod
    async def delete_snapshot(self, key: SessionKey, name: str) -> None:
        """Take a name away; the next `collect` may forget its version. Raises NotFoundError."""

    # Jobs

    @abstractmethod
    async def save_job(
        self,
        lease: Lease,
        *,
        request: bytes,
        progress: bytes,
        put_blobs: Mapping[str, bytes] = MappingProxyType({}),
        drop_blobs: frozenset[str] = frozenset(),
    ) -> Job:
        """Begin the session's job, or note how far it is: `progress` and the blobs that
        changed. The head stays as it is; `Commit.ends_job` ends the job with its result.

        The same call again does no harm. Raises NotFoundError, LeaseLostError;
        AlreadyExistsError when the session has a job with another request."""

    @abstractmethod
    async def end_job(self, lease: Lease) -> None:
        """Take the session's job back, and what it has made; none is no error.
        Raises NotFoundError, LeaseLostError."""

    @abstractmethod
    async def read_job(self, key: SessionKey) -> tuple[Job, dict[str, bytes]]:
        """The session's job and its blobs, checked as by `read_blobs`. Raises
        NotFoundError, also when there is no job, and CorruptBlobError."""

    @abstractmethod
    async def jobs(self, *, limit: int = 1000) -> list[SessionKey]:
        """Sessions of all users that have a job, the oldest job first."""

    # Upkeep

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
