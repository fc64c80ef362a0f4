"""The part of a store that changes a session, and reads what it is and was."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from server.store.values import (
    Commit,
    Head,
    Lease,
    LogRecord,
    Record,
    SessionKey,
    Snapshot,
    StoredReply,
    VersionInfo,
)


class SessionHistory(ABC):
    """State, log, replies, versions and snapshots. Promises and errors are in `base`."""

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
