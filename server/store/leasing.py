"""The part of a store that lends sessions to one writer at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod

from server.store.values import Lease, SessionKey


class SessionLeases(ABC):
    """Leases of sessions. Promises and errors are in `base`."""

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
