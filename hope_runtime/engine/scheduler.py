"""Scheduler: a queue of requests that every step moves along by one batch.

A step takes one token of each reply that is being written, up to a limit, and beside them a
slice of one request that reads (a prompt, a document, a window that hopped), so that no reply waits
for a long text. While nobody writes, that request reads its whole chunk. Before it, each request
whose text is not encoded yet encodes a bounded part of it. Requests that took part go to the end of
the queue, so everyone gets a share.

Knows requests and their chunks; computes nothing and knows no model. The threads are loop.py's.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hope_runtime.engine.request import Request
from hope_runtime.errors import CancelledTurnError

_log = logging.getLogger(__name__)

MAX_ROWS = 16


@dataclass(frozen=True, slots=True)
class StepLimits:
    """Most replies of one step, and most tokens of a longer text that it reads beside them; None
    for all of the text's chunk."""

    rows: int
    slice_tokens: int | None


# A CPU's step of few rows costs little more than reading the weights once. A slice of 8 tokens is
# felt beside them; one of 16 doubles the step, unless the processor multiplies tiles of 16 rows. In
# a GPU's step the launches are felt, not the tokens.
CPU_LIMITS = StepLimits(rows=MAX_ROWS, slice_tokens=8)
TILED_LIMITS = StepLimits(rows=MAX_ROWS, slice_tokens=16)
GPU_LIMITS = StepLimits(rows=64, slice_tokens=None)

# Readers that have caught up do not notify, so requests that wait for one are looked at again.
POLL_SECONDS = 0.02

Compute = Callable[[Sequence[Any]], Sequence[Any]]
"""Computes a batch of chunks; of each the output, or the exception that it met."""


class Scheduler:
    """Serves requests, one `step` after another on one thread; `submit` and `load` on any.

    `compute` is the engine's; `room` says how many more requests can begin; `prepare` is called
    before each batch.
    """

    def __init__(
        self,
        compute: Compute,
        *,
        room: Callable[[], int],
        prepare: Callable[[], None] = lambda: None,
        limits: StepLimits = CPU_LIMITS,
    ) -> None:
        self._compute = compute
        self._limits = limits
        self._room = room
        self._prepare = prepare
        self._queue: deque[Request[Any]] = deque()
        # Requests of the step at work; in no queue meanwhile.
        self._running: list[Request[Any]] = []
        self._wake = threading.Condition()
        # Whether a step computes or requests wait for their readers.
        self.serving = False
        self.closing = False

    def submit(self, request: Request[Any]) -> None:
        """Queue a request. Raises CancelledTurnError once the engine is closing."""
        with self._wake:
            if self.closing:
                raise CancelledTurnError("the engine is closing")
            # From here on only the engine ends it: a waiting task that goes away cannot.
            request.future.set_running_or_notify_cancel()
            self._queue.append(request)
            self._wake.notify_all()

    def load(self) -> tuple[int, int]:
        """Requests that have begun, and requests that wait to begin."""
        with self._wake:
            requests = [*self._running, *self._queue]
            waiting = sum(request.waiting for request in requests)
            return len(requests) - waiting, waiting

    def close(self) -> None:
        """Take nothing more, and wake a step that waits."""
        with self._wake:
            self.closing = True
            self._wake.notify_all()

    def cancel_all(self) -> None:
        """Cancel what is left in the queue; only after the last step."""
        for request in self._queue:
            request.fail(CancelledTurnError("the engine is closed"))
            request.resolve()

    def step(self) -> None:
        """Move requests along by one batch; waits while there is nothing to do."""
        requests = self.schedule()
        outputs = self.run(requests)
        self.finish(requests, outputs)

    def schedule(self) -> list[Request[Any]]:
        """Choose the requests of this step and begin the new ones; each has a chunk to compute.

        Requests whose text takes more steps to encode go back to the queue.
        """
        chosen: list[Request[Any]] = []
        with self._wake:
            while not self.closing and not (
                chosen := choose(self._queue, self._room(), self._limits.rows)
            ):
                self.serving = bool(self._queue)
                self._wake.wait(timeout=POLL_SECONDS if self._queue else None)
            self.serving = True
        self._prepare()
        for request in chosen:
            if request.cancelled:
                request.end_if_cancelled()
            elif request.waiting:
                request.begin()
            elif request.encoding:
                request.encode()
        with self._wake:
            self._queue.extend(request for request in chosen if request.encoding)
            self._running = [each for each in chosen if not (each.encoding or each.finished)]
        for request in chosen:
            if request.finished:
                request.resolve()
        return self._running

    def run(self, requests: Sequence[Request[Any]]) -> Sequence[Any]:
        """Compute the chunks of all requests as one batch."""
        if not requests:
            return []
        limit = self._limits.slice_tokens if any(map(_is_writing, requests)) else None
        try:
            return self._compute([request.next_chunk(limit) for request in requests])
        except Exception as error:  # a bug in the engine itself must not stop every session
            _log.exception("an engine step failed")
            return [error for _ in requests]

    def finish(self, requests: Sequence[Request[Any]], outputs: Sequence[Any]) -> None:
        """Hand out the outputs, requeue what goes on, and then resolve what has ended."""
        for request, output in zip(requests, outputs, strict=True):
            request.accept(output)
        with self._wake:
            self._running = []
            self._queue.extend(request for request in requests if not request.finished)
        for request in requests:
            if request.finished:
                request.resolve()


def choose(queue: deque[Request[Any]], room: int, most_rows: int = MAX_ROWS) -> list[Request[Any]]:
    """Take the requests of the next step out of `queue`.

    Cancelled requests are taken at once, requests that have not begun as far as there is `room` for
    more, and all whose text is still being encoded: none of them takes part in a batch yet.
    """
    chosen: list[Request[Any]] = []
    rows = 0
    reading = False
    for _ in range(len(queue)):
        request = queue.popleft()
        if request.cancelled:
            chosen.append(request)
        elif not request.ready():
            queue.append(request)
        elif request.waiting:
            (chosen if room > 0 else queue).append(request)
            room -= 1
        elif request.encoding:
            chosen.append(request)
        elif _is_writing(request):
            (chosen if rows < most_rows else queue).append(request)
            rows += 1
        else:
            (queue if reading else chosen).append(request)
            reading = True
    return chosen


def _is_writing(request: Request[Any]) -> bool:
    return request.chunk is not None and len(request.chunk.ids) == 1
