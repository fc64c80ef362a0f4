"""The thread of an engine that learns, beside whatever serves turns.

Consolidations arrive as generators in tickets; one piece of each runs in turn. How many threads a
piece may use changes how long it takes and not what it finds.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from hope_runtime.engine.scheduler import Ticket
from hope_runtime.errors import CancelledTurnError

_Result = TypeVar("_Result")


class LearningThread:
    """Learns from `start` until it is closed.

    Of `threads` compute threads one is left to turns while `serving`; `widen` is told before each
    piece how many it may use.
    """

    def __init__(
        self, *, threads: int, serving: Callable[[], bool], widen: Callable[[int], None]
    ) -> None:
        self._threads = threads
        self._serving = serving
        self._widen = widen
        self._queue: deque[Ticket[Any]] = deque()
        # What is at work now; in no queue meanwhile.
        self._taught: Ticket[Any] | None = None
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._teach, name="hope-learning", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stops after the present piece; what was not done is cancelled."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self._thread.join()

    def submit(self, ticket: Ticket[_Result]) -> Ticket[_Result]:
        """Takes a consolidation. Raises CancelledTurnError when it is too late."""
        with self._wake:
            if self._closing:
                raise CancelledTurnError("the engine is closing")
            # From here on only the engine ends it: a waiting task that goes away cannot.
            ticket.future.set_running_or_notify_cancel()
            self._queue.append(ticket)
            self._wake.notify_all()
        return ticket

    @property
    def load(self) -> int:
        """Consolidations that are under way or wait."""
        with self._wake:
            return len(self._queue) + (self._taught is not None)

    def _teach(self) -> None:
        torch.set_num_threads(1)
        while not self._closing:
            with self._wake:
                while not (self._queue or self._closing):
                    self._wake.wait()
                if self._closing:
                    break
                ticket = self._taught = self._queue.popleft()
            self._widen(max(1, self._threads - 1) if self._serving() else self._threads)
            resolve = ticket.advance(None)
            with self._wake:
                self._taught = None
                if resolve is None:
                    self._queue.append(ticket)
            if resolve is not None:
                resolve()
        for ticket in self._queue:
            ticket.fail(CancelledTurnError("the engine is closed"))()
