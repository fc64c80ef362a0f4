"""Errors of a store. Their tree is in `base`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from server.store.values import Lease, SessionKey


class StoreError(Exception):
    """Root of everything a store raises on purpose."""


class NotFoundError(StoreError):
    """No such session, or none of its versions or blobs goes by that name."""


class VersionNotFoundError(NotFoundError):
    """The session is there and does not keep that version."""


class SnapshotNotFoundError(NotFoundError):
    """The session is there and has no snapshot of that name."""


class AlreadyExistsError(StoreError):
    """The session's name is taken, or the request id has a live reply."""


class SnapshotExistsError(AlreadyExistsError):
    """The session has a snapshot of that name."""


class LeaseHeldError(StoreError):
    """Another owner holds the session."""

    def __init__(self, key: SessionKey, owner: str, remaining_seconds: float) -> None:
        super().__init__(f"session {key} is held by {owner} for another {remaining_seconds:.1f} s")
        self.key = key
        self.owner = owner
        self.remaining_seconds = remaining_seconds


class LeaseLostError(StoreError):
    """The lease was released, or somebody was granted a later one."""

    def __init__(self, lease: Lease) -> None:
        super().__init__(f"{lease.owner} no longer holds session {lease.key} (fence {lease.fence})")
        self.lease = lease


class StaleRevisionError(StoreError):
    """The session was committed to since the caller read it; read it again."""

    def __init__(self, key: SessionKey, expected: str, actual: str) -> None:
        super().__init__(f"session {key} is at revision {actual}, not {expected}; read it again")
        self.key = key
        self.expected = expected
        self.actual = actual


class CorruptBlobError(StoreError):
    """A blob's bytes differ in size or digest from what was stored."""

    def __init__(self, key: SessionKey, name: str, reason: str) -> None:
        super().__init__(f"blob {name!r} of session {key} is damaged: {reason}")
        self.key = key
        self.name = name


class CorruptStoreError(StoreError):
    """The store cannot be read. The message says where it is and what to do."""


class StoreFullError(StoreError):
    """There is no room, or no permission, to write. Nothing was changed, and
    reads go on working."""


class StoreVersionError(StoreError):
    """The store was written by a newer program than this one."""


class StoreUnavailableError(StoreError):
    """The store is closed, busy or out of reach. A commit that met this may have
    happened: try it again with the same nonce."""
