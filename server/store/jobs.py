"""The part of a store that keeps the jobs of sessions, and what they have made so far."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType

from server.store.values import Job, Lease, SessionKey


class SessionJobs(ABC):
    """At most one job a session. Promises and errors are in `base`."""

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
