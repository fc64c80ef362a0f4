"""The thread of an engine that learns, beside whatever serves turns.

Consolidations arrive as requests whose progress is a generator; one piece of each runs in turn. The
number of threads that a piece may use changes how long it takes and not what it finds.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import torch

from hope_runtime.device import Device
from hope_runtime.engine.request import Ready, Request, always_ready
from hope_runtime.errors import CancelledTurnError

_Result = TypeVar("_Result")


class GeneratorRequest(Request[_Result]):
    """A request whose progress is a generator: it yields its chunks and receives their outputs.

    Consolidations are such requests, which yield the share that is done instead of chunks, or None,
    and so are turns that vLLM decodes.
    """

    def __init__(self, work: Generator[Any, Any, _Result], ready: Ready = always_ready) -> None:
        super().__init__(ready)
        self._work = work

    def _begin(self) -> None:
        self._advance(None)

    def _advance(self, output: Any) -> None:
        try:
            found = self._work.send(output)
        except StopIteration as end:
            self._finish(end.value)
            return
        if isinstance(found, float):
            self.progress, self.chunk = found, None
        else:
            self.chunk = found

    def _release(self, *, kept: bool) -> None:
        self._work.close()


class LearningThread:
    """Learns from `start` until it is closed.

    One of the threads of `device` is left to turns while `serving`; `widen` is told before each
    piece how many it may use.
    """

    def __init__(
        self, *, device: Device, serving: Callable[[], bool], widen: Callable[[int], None]
    ) -> None:
        self._device = device
        self._serving = serving
        self._widen = widen
        self._queue: deque[Request[Any]] = deque()
        # The consolidation at work; in no queue meanwhile.
        self._running: Request[Any] | None = None
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._learn, name="hope-learning", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop after the piece at work; what is left is cancelled."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self._thread.join()

    def submit(self, request: Request[Any]) -> None:
        """Queue a consolidation. Raises CancelledTurnError once the engine is closing."""
        with self._wake:
            if self._closing:
                raise CancelledTurnError("the engine is closing")
            # From here on only the engine ends it: a waiting task that goes away cannot.
            request.future.set_running_or_notify_cancel()
            self._queue.append(request)
            self._wake.notify_all()

    @property
    def load(self) -> int:
        """Consolidations that are under way or wait."""
        with self._wake:
            return len(self._queue) + (self._running is not None)

    def _learn(self) -> None:
        torch.set_num_threads(1)
        while (request := self._next()) is not None:
            self._widen(self._device.learning_threads(serving=self._serving()))
            if request.waiting:
                request.begin()
            else:
                request.accept(None)
            with self._wake:
                self._running = None
                if not request.finished:
                    self._queue.append(request)
            if request.finished:
                request.resolve()
        for request in self._queue:
            request.fail(CancelledTurnError("the engine is closed"))
            request.resolve()

    def _next(self) -> Request[Any] | None:
        """The consolidation whose turn it is; waits for one. None once the engine is closing."""
        with self._wake:
            while not (self._queue or self._closing):
                self._wake.wait()
            self._running = None if self._closing else self._queue.popleft()
            return self._running
