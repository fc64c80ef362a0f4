"""Duration of other owners' leases, whatever happens to the clocks.

A store keeps the time at which a lease ends on its wall clock, which people and NTP set back and
forth. Two rules keep that from locking a session: a lease that ends further ahead than any server
asks for is void, and a lease that is seen again unrenewed never lasts longer than it did at first
sight, measured by this process's monotonic clock. Neither can cost data when it is wrong: a holder
that was passed over is refused by its fence.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from server.store.values import SessionKey

MAX_LEASE_SECONDS = 120.0
"""The longest lease that a store grants."""

# Sessions that are remembered before those whose lease has ended are forgotten.
_REMEMBERED = 1024


class _Seen(NamedTuple):
    fence: int
    expires_at: float
    ends: float
    """On the monotonic clock."""


class LeaseWatch:
    """Remembers the leases of others that stood in the way. Not safe for several threads."""

    def __init__(self, timer: Callable[[], float] = time.monotonic) -> None:
        self._timer = timer
        self._seen: dict[SessionKey, _Seen] = {}

    def remaining_seconds(
        self, key: SessionKey, fence: int, expires_at: float, now: float
    ) -> float:
        """Remaining seconds of a lease; 0 when it has ended or is void.

        `expires_at` and `now` are on the store's clock. A renewed lease counts as a new one."""
        left = expires_at - now
        if not 0 < left <= MAX_LEASE_SECONDS:
            self._seen.pop(key, None)
            return 0.0
        ticks = self._timer()
        ends = ticks + left
        before = self._seen.get(key)
        if before is not None and (before.fence, before.expires_at) == (fence, expires_at):
            ends = min(ends, before.ends)
        self._forget_ended(ticks)
        self._seen[key] = _Seen(fence, expires_at, ends)
        return max(0.0, ends - ticks)

    def _forget_ended(self, ticks: float) -> None:
        if len(self._seen) >= _REMEMBERED:
            # Those that nobody asked for again for as long as a lease can last.
            alive = {k: s for k, s in self._seen.items() if s.ends > ticks - MAX_LEASE_SECONDS}
            self._seen = alive


def check_lease_request(owner: str, ttl_seconds: float) -> None:
    """Raises ValueError for a lease that no store grants."""
    if not owner:
        raise ValueError("a lease requires an owner")
    if not 0 < ttl_seconds <= MAX_LEASE_SECONDS:
        raise ValueError(
            f"a lease must last above 0 and at most {MAX_LEASE_SECONDS:.0f} s, not {ttl_seconds}"
        )
