"""Health of the store: whether it accepts what sessions would write.

A problem of the store is looked for before work whose result could not be kept, every few seconds,
and at every health check (server/grpc_api/health.py). A metric and the log tell of it.
"""

from __future__ import annotations

import logging

from server.store.base import SessionStore, StoreError, StoreFullError, StoreUnavailableError
from server.telemetry.metrics import Metrics

_log = logging.getLogger(__name__)


class StoreWatch:
    """Knows what keeps the store from accepting writes. `room_bytes` is room for what a turn and
    its learning may write."""

    def __init__(self, store: SessionStore, metrics: Metrics, *, room_bytes: int) -> None:
        self._store = store
        self._metrics = metrics
        self._room_bytes = room_bytes
        self.problem: StoreError | None = None
        metrics.store_writable.set(1)

    async def require_room(self) -> None:
        """Raise StoreError when the store could not keep what a turn and its learning write.

        Asked before either is computed, and counted like a commit that failed.
        """
        try:
            await self.look(room=True)
        except StoreError as error:
            self._metrics.store_failed(error)
            raise

    async def look(self, *, room: bool) -> None:
        """Raise StoreError, and remember it until the next look. Without `room` only the files are
        checked, and a store that was full is still full."""
        try:
            await self._store.check_writable(self._room_bytes if room else 0)
        except StoreError as error:
            # Out of reach for a moment: the caller is told, and what was known stays known.
            if not isinstance(error, StoreUnavailableError):
                self._know(error)
            raise
        if room or not isinstance(self.problem, StoreFullError):
            self._know(None)

    def _know(self, problem: StoreError | None) -> None:
        before, self.problem = self.problem, problem
        self._metrics.store_writable.set(0 if problem else 1)
        if problem is not None and type(problem) is not type(before):
            _log.error("the store does not accept writes: %s", problem)
        elif problem is None and before is not None:
            _log.info("the store accepts writes again")
