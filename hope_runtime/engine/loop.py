"""The two threads of an engine: one serves turns in steps, the other learns beside it.

Turns and consolidations arrive as generators in tickets (scheduler.py). A step of the first thread
is three verbs: *schedule* chooses which turns go on, *compute*, which is the engine's own, runs
what they wait for, *finish* puts those that go on at the end of the queue. The second thread is
teaching.py's.

Knows queues and threads; computes nothing and knows no model.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from hope_runtime.engine.learning_thread import LearningThread
from hope_runtime.engine.scheduler import Resolve, Ticket, choose
from hope_runtime.errors import CancelledTurnError

_Result = TypeVar("_Result")
_log = logging.getLogger(__name__)

# Runs what the tickets want and advances them; of each how to resolve it, or None if it goes on.
Compute = Callable[[Sequence[Ticket[Any]]], Sequence[Resolve | None]]


class Loop:
    """Serves and teaches until it is closed.

    `threads` is the number of compute threads that both have together. `room` says how many more
    turns can begin, `widen` is told how many threads learning may use for its next piece.
    """

    def __init__(
        self,
        compute: Compute,
        *,
        threads: int,
        room: Callable[[], int],
        widen: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._compute = compute
        self._threads = threads
        self._room = room
        self._turns: deque[Ticket[Any]] = deque()
        # What is at work now; in no queue meanwhile.
        self._served: list[Ticket[Any]] = []
        self._serving = False
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="hope-turns", daemon=True)
        self._teaching = LearningThread(threads=threads, serving=lambda: self._serving, widen=widen)

    def start(self) -> None:
        self._thread.start()
        self._teaching.start()

    def close(self) -> None:
        """Stops after the present pieces; what was not done is cancelled."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self._teaching.close()
        self._thread.join()

    def serve(self, ticket: Ticket[_Result]) -> Ticket[_Result]:
        """Takes a turn. Raises CancelledTurnError when it is too late."""
        with self._wake:
            if self._closing:
                raise CancelledTurnError("the engine is closing")
            # From here on only the engine ends it: a waiting task that goes away cannot.
            ticket.future.set_running_or_notify_cancel()
            self._turns.append(ticket)
            self._wake.notify_all()
        return ticket

    def teach(self, ticket: Ticket[_Result]) -> Ticket[_Result]:
        """Takes a consolidation. Raises CancelledTurnError when it is too late."""
        return self._teaching.submit(ticket)

    def load(self) -> tuple[int, int, int]:
        """Turns that have begun, turns that wait, and consolidations."""
        with self._wake:
            turns = [*self._served, *self._turns]
            running = sum(ticket.started for ticket in turns)
            return running, len(turns) - running, self._teaching.load

    # One step is three verbs.

    def _step(self) -> None:
        tickets = self._schedule()
        self._finish(tickets, self._compute(tickets) if tickets else [])

    def _schedule(self) -> list[Ticket[Any]]:
        """The turns of the next step, each with tokens to compute; waits until there is work.

        A turn that is still putting its tokens together does a bounded part of it here.
        """
        chosen: list[Ticket[Any]] = []
        with self._wake:
            while not self._closing and not (chosen := choose(self._turns, self._room())):
                self._serving = bool(self._turns)
                # Readers that fell behind do not notify, hence the time limit.
                self._wake.wait(timeout=0.02 if self._turns else None)
            self._serving = True
        learning = self._teaching.load > 0
        # Threads that share a core wait for each other, so who learns and who serves divide them.
        torch.set_num_threads(max(1, self._threads - 1) if learning else self._threads)
        going: list[Ticket[Any]] = []
        unready: list[Ticket[Any]] = []
        for ticket in chosen:
            if ticket.wanted and not ticket.cancelled:
                going.append(ticket)
            elif resolve := ticket.advance(None):
                resolve()
            else:
                (going if ticket.wanted else unready).append(ticket)
        with self._wake:
            self._served = going
            self._turns.extend(unready)
        return going

    def _finish(self, tickets: Sequence[Ticket[Any]], resolves: Sequence[Resolve | None]) -> None:
        """What goes on is put at the end of the queue; then what has ended is told."""
        going = [ticket for ticket, end in zip(tickets, resolves, strict=True) if end is None]
        with self._wake:
            self._served = []
            self._turns.extend(going)
        for resolve in resolves:
            if resolve is not None:
                resolve()

    def _serve(self) -> None:
        while not self._closing:
            try:
                self._step()
            except Exception:  # a bug in the engine itself must not stop every session
                _log.exception("an engine step failed")
        for ticket in self._turns:
            ticket.fail(CancelledTurnError("the engine is closed"))()
