"""Errors of a store. Their tree is in `base`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from server.store.values import Lease, SessionKey


def _holder(owner: str) -> str:
    """The part of an owner's name that is for people."""
    return owner.partition("|")[0]


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
        holder = _holder(owner)
        super().__init__(
            f"session {key} is held by another server ({holder}) for another "
            f"{remaining_seconds:.1f} s; wait, or stop that server so that it lets go"
        )
        self.key = key
        self.owner = owner
        self.holder = holder
        """The part of the owner's name that people read."""
        self.remaining_seconds = remaining_seconds


class LeaseLostError(StoreError):
    """The lease was released, or somebody was granted a later one."""

    def __init__(self, lease: Lease) -> None:
        holder = _holder(lease.owner)
        super().__init__(f"{holder} no longer holds session {lease.key} (fence {lease.fence})")
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


class StoreLostError(StoreError):
    """The store's file was removed or replaced under the program that has it open.
    Nothing was changed, and nothing will be until it is opened again."""


class StoreVersionError(StoreError):
    """The store was written by a newer program than this one."""


class StoreUnavailableError(StoreError):
    """The store is closed, busy or out of reach. A commit that met this may have
    happened: try it again with the same nonce."""
