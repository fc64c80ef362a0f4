"""The two threads of an engine: one serves turns step by step, the other learns beside it.

Divides the compute threads between them; the steps are scheduler.py's, learning is
learning_thread.py's.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from hope_runtime.device import Device
from hope_runtime.engine.learning_thread import LearningThread
from hope_runtime.engine.request import Request
from hope_runtime.engine.scheduler import CPU_LIMITS, Compute, Scheduler, StepLimits

_AnyRequest = TypeVar("_AnyRequest", bound=Request[Any])
_log = logging.getLogger(__name__)


class Loop:
    """Serves and learns from `start` until it is closed.

    Both divide the threads of `device` between them. `room` says how many more turns can begin;
    `widen` is told how many threads learning may use for its next piece.
    """

    def __init__(
        self,
        compute: Compute,
        *,
        device: Device,
        room: Callable[[], int],
        widen: Callable[[int], None] = lambda _: None,
        limits: StepLimits = CPU_LIMITS,
    ) -> None:
        self._device = device
        self._scheduler = Scheduler(compute, room=room, prepare=self._share_threads, limits=limits)
        self._learning = LearningThread(
            device=device, serving=lambda: self._scheduler.serving, widen=widen
        )
        self._thread = threading.Thread(target=self._serve, name="hope-turns", daemon=True)

    def start(self) -> None:
        """Start both threads."""
        self._thread.start()
        self._learning.start()

    def close(self) -> None:
        """Stop after the pieces at work; what is left is cancelled."""
        self._scheduler.close()
        self._learning.close()
        self._thread.join()

    def serve(self, request: _AnyRequest) -> _AnyRequest:
        """Queue a turn. Raises CancelledTurnError once the engine is closing."""
        self._scheduler.submit(request)
        return request

    def learn(self, request: _AnyRequest) -> _AnyRequest:
        """Queue a consolidation. Raises CancelledTurnError once the engine is closing."""
        self._learning.submit(request)
        return request

    def load(self) -> tuple[int, int, int]:
        """Turns that have begun, turns that wait, and consolidations."""
        return (*self._scheduler.load(), self._learning.load)

    def _share_threads(self) -> None:
        self._device.set_serving_threads(learning=self._learning.load > 0)

    def _serve(self) -> None:
        # What learning launches would otherwise stand in line before each step.
        with self._device.before_learning():
            while not self._scheduler.closing:
                try:
                    self._scheduler.step()
                except Exception:  # a bug in the engine itself must not stop every session
                    _log.exception("an engine step failed")
        self._scheduler.cancel_all()
