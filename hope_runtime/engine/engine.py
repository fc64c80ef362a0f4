"""The native engine: one thread that owns the compute and gives every piece of work its turn.

Work arrives as generators (turn.py, learning.py) that yield after each bounded piece; a step is
three verbs: `_schedule` picks what goes next, `_run` advances it by one piece, `_finish` hands out
its result. Replies go before learning, but learning always gets a share, so neither waits for
long. This engine runs one row a step.

Knows no users and no stores: callers bring an immutable memory and get back what happened.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Generator, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

import torch

from hope_runtime.engine import turn as turns
from hope_runtime.engine.arena import Arena, Row
from hope_runtime.engine.reader import Reader
from hope_runtime.errors import CancelledTurnError, ModelError
from hope_runtime.fold import Boundary
from hope_runtime.learning import Consolidation, Learner
from hope_runtime.log import Record
from hope_runtime.memory.state import SessionMemory
from hope_runtime.model.weights import BaseModel

_Result = TypeVar("_Result")
_log = logging.getLogger(__name__)

# While both wait, one piece of learning runs for so many pieces of turns.
TURN_PIECES_PER_LEARNING_PIECE = 8


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """What the engine carries now."""

    running: int
    waiting: int
    learning: int
    resident_rows: int
    resident_bytes: int


@dataclass(eq=False, slots=True)
class Ticket(Generic[_Result]):
    """A piece of work that was submitted. `future` resolves on the engine's thread.

    `ready` may say that the reader of a stream is behind; the work then waits, and only it.
    """

    work: Generator[None, None, _Result]
    future: Future[_Result] = field(default_factory=Future)
    learning: bool = False
    ready: Callable[[], bool] = lambda: True
    # Set by cancel(), seen before the next piece.
    cancelled: bool = False
    # Set by the engine when the first piece ran.
    started: bool = False

    def cancel(self) -> None:
        """Ends the work before its next piece; it leaves no trace. Done work stays done."""
        self.cancelled = True


class Engine:
    """Runs turns and consolidations of any number of sessions on one model.

    `threads` is the number of compute threads, part of what makes learning reproducible;
    `cache_bytes` bounds the resident rows. Use as a context manager, or call close().
    Raises ModelError for a window that the model has no positions for.
    """

    def __init__(
        self,
        model: BaseModel,
        *,
        window_tokens: int = 1024,
        threads: int | None = None,
        cache_bytes: int = 2 << 30,
        learner: Learner | None = None,
    ) -> None:
        if window_tokens > model.config.max_positions:
            raise ModelError(
                f"The model knows {model.config.max_positions} positions; "
                f"a window of {window_tokens} tokens is too long for it."
            )
        self.model = model
        self.window_tokens = window_tokens
        self.learner = learner or Learner(model, threads)
        self.arena = Arena(cache_bytes)
        self._reader = Reader(model, window_tokens)
        self._threads = threads
        self._turns: deque[Ticket[Any]] = deque()
        self._learning: deque[Ticket[Any]] = deque()
        self._turn_pieces = 0
        # What the engine's thread is at; in no queue meanwhile.
        self._present: Ticket[Any] | None = None
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._loop, name="hope-engine", daemon=True)
        self._thread.start()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops after the present piece; what was not done is cancelled."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def check(self, memory: SessionMemory, turn: turns.GenerateTurn) -> None:
        """Raises InvalidRequestError if the turn would be refused. Any thread may call it."""
        turns.place(self.model.tokenizer, memory, turn, self.window_tokens)

    # What can be submitted. `row` names the caches to use; one turn at a time a row.

    def generate(
        self,
        row: Hashable,
        memory: SessionMemory,
        turn: turns.GenerateTurn,
        on_text: turns.OnText,
        *,
        ready: Callable[[], bool] = lambda: True,
    ) -> Ticket[turns.GenerateOutcome]:
        """Answers. `on_text` is called on the engine's thread and must not block."""
        tokenizer = self.model.tokenizer
        work = self._with_row(
            row,
            lambda slot: turns.generate(
                self._reader, tokenizer, slot, memory, turn, self.window_tokens, on_text
            ),
        )
        return self._submit(Ticket(work, ready=ready))

    def read(
        self, row: Hashable, memory: SessionMemory, record: Record
    ) -> Ticket[turns.ReadOutcome]:
        """Reads a document's record, scoring it."""
        work = self._with_row(
            row,
            lambda slot: turns.read_record(self._reader, slot, memory, record, self.window_tokens),
        )
        return self._submit(Ticket(work))

    def score(
        self, memory: SessionMemory | None, context: str, text: str
    ) -> Ticket[turns.ReadOutcome]:
        """Scores a text on a row of its own."""
        tokenizer = self.model.tokenizer
        work = self._with_row(
            object(),
            lambda slot: turns.score(
                self._reader, tokenizer, slot, memory, context, text, self.window_tokens
            ),
            keep=False,
        )
        return self._submit(Ticket(work))

    def consolidate(
        self, memory: SessionMemory, boundary: Boundary
    ) -> Ticket[tuple[SessionMemory, Consolidation]]:
        """Learns at one boundary; a pure function of memory and boundary."""
        work = self.learner.consolidate(memory, boundary)
        return self._submit(Ticket(work, learning=True))

    def load(self) -> EngineLoad:
        with self._wake:
            present = self._present
            running = sum(ticket.started for ticket in self._turns)
            waiting = len(self._turns) - running
            return EngineLoad(
                running=running + (present is not None and not present.learning),
                waiting=waiting,
                learning=len(self._learning) + (present is not None and present.learning),
                resident_rows=len(self.arena),
                resident_bytes=self.arena.nbytes,
            )

    # One step is three verbs.

    def _step(self, ticket: Ticket[Any] | None) -> None:
        if ticket is not None:
            self._finish(ticket, self._run(ticket))

    def _schedule(self) -> Ticket[Any] | None:
        """The next ticket, taken out of its queue; waits until there is one, None when closing."""
        with self._wake:
            while not self._closing:
                if ticket := self._pick():
                    self._present = ticket
                    return ticket
                # Readers that fell behind do not notify, hence the time limit.
                self._wake.wait(timeout=0.02 if self._turns else None)
            return None

    def _run(self, ticket: Ticket[Any]) -> Callable[[], None] | None:
        """Advances by one piece. Returns how to resolve the future when the work has ended."""
        future = ticket.future
        if ticket.cancelled:
            ticket.work.close()
            error = CancelledTurnError("The turn was cancelled; it left no trace.")
            return partial(future.set_exception, error)
        ticket.started = True
        try:
            next(ticket.work)
        except StopIteration as end:
            return partial(future.set_result, end.value)
        except Exception as error:
            return partial(future.set_exception, error)
        return None

    def _finish(self, ticket: Ticket[Any], resolve: Callable[[], None] | None) -> None:
        """Resolves ended work, puts the rest back at the end of its queue."""
        with self._wake:
            self._present = None
        if resolve is not None:
            resolve()
            return
        with self._wake:
            (self._learning if ticket.learning else self._turns).append(ticket)

    def _pick(self) -> Ticket[Any] | None:
        share_due = self._turn_pieces >= TURN_PIECES_PER_LEARNING_PIECE
        if not (share_due and self._learning):
            for _ in range(len(self._turns)):
                ticket = self._turns.popleft()
                if ticket.cancelled or ticket.ready():
                    self._turn_pieces += 1
                    return ticket
                self._turns.append(ticket)
        if self._learning:
            self._turn_pieces = 0
            return self._learning.popleft()
        return None

    def _submit(self, ticket: Ticket[_Result]) -> Ticket[_Result]:
        with self._wake:
            if self._closing:
                raise CancelledTurnError("The engine is closing.")
            # From here on only the engine ends it: a waiting task that goes away cannot.
            ticket.future.set_running_or_notify_cancel()
            (self._learning if ticket.learning else self._turns).append(ticket)
            self._wake.notify()
        return ticket

    def _loop(self) -> None:
        if self._threads:
            torch.set_num_threads(self._threads)
        while not self._closing:
            try:
                self._step(self._schedule())
            except Exception:  # a bug in the engine itself must not stop every session
                _log.exception("engine step failed")
        for ticket in (*self._turns, *self._learning):
            ticket.work.close()
            ticket.future.set_exception(CancelledTurnError("The engine has closed."))

    def _with_row(
        self,
        key: Hashable,
        work: Callable[[Row], Generator[None, None, _Result]],
        *,
        keep: bool = True,
    ) -> Generator[None, None, _Result]:
        """Runs `work` on the row of `key`; a row that saw an error is not kept."""
        row = self.arena.take(key) or self._reader.new_row()
        kept: Row | None = None
        try:
            result = yield from work(row)
            kept = row if keep else None
            return result
        finally:
            self.arena.give(key, kept)
