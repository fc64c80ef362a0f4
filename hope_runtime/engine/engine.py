"""The native engine: one thread that serves turns, and one that learns.

Turns arrive as generators (turn.py) that yield what they want computed; a step is three verbs:
`_schedule` chooses whose tokens go next, `_run` computes them as one batch, `_finish` hands out
what came of it. Learning (learning/) runs beside it on threads of its own, on the cores that turns
leave: how many it has changes how long it takes and not what it finds.

Knows no users and no stores: callers bring an immutable memory and get back what happened.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from hope_runtime.engine import turn as turns
from hope_runtime.engine.arena import Arena, Row
from hope_runtime.engine.reader import Reader
from hope_runtime.engine.runner import Output, Pass, Runner
from hope_runtime.engine.scheduler import Resolve, Ticket, choose, slices
from hope_runtime.errors import CancelledTurnError, ModelError
from hope_runtime.fold import Boundary
from hope_runtime.learning import Consolidation, Learner
from hope_runtime.log import Record
from hope_runtime.memory.state import SessionMemory
from hope_runtime.model.attention import KVCache
from hope_runtime.model.weights import BaseModel

# More turns than this at a time wait.
MAX_SLOTS = 1024

_Result = TypeVar("_Result")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """What the engine carries now."""

    running: int
    waiting: int
    learning: int
    # Windows that are kept or in use, and what they and the memories kept ready take.
    resident_rows: int
    resident_bytes: int


class Engine:
    """Runs turns and consolidations of any number of sessions on one model.

    `threads` is the number of compute threads, which changes no memory. `window_cache_bytes` are
    taken at once for keys and values, as many windows as fit, up to MAX_SLOTS: no more turns run at
    a time, the others wait. `memory_cache_bytes` bounds the memories that are kept ready. Use as a
    context manager, or call close().
    Raises ModelError for a window that the model has no positions for, or that the bytes do not
    hold once.
    """

    def __init__(
        self,
        model: BaseModel,
        *,
        window_tokens: int = 1024,
        threads: int | None = None,
        window_cache_bytes: int = 2 << 30,
        memory_cache_bytes: int = 1 << 30,
        learner: Learner | None = None,
    ) -> None:
        if window_tokens > model.config.max_positions:
            raise ModelError(
                f"The model knows {model.config.max_positions} positions; "
                f"a window of {window_tokens} tokens is too long for it."
            )
        slot_bytes = KVCache.bytes_of(model.config, window_tokens, model.dtype)
        if window_cache_bytes < slot_bytes:
            raise ModelError(
                f"window_cache_bytes is {window_cache_bytes}; a window of {window_tokens} tokens "
                f"of this model takes {slot_bytes} bytes."
            )
        self.model = model
        self.window_tokens = window_tokens
        self.learner = learner or Learner(model, threads)
        slots = KVCache.pool(
            model.config,
            min(MAX_SLOTS, window_cache_bytes // slot_bytes),
            capacity=window_tokens,
            dtype=model.dtype,
            device=model.device,
        )
        self.arena = Arena(slots)
        self._reader = Reader(model, window_tokens, memory_bytes=memory_cache_bytes)
        self._runner = Runner(model)
        self._threads = threads or torch.get_num_threads()
        self._turns: deque[Ticket[Any]] = deque()
        self._learning: deque[Ticket[Any]] = deque()
        # What is at work now; in no queue meanwhile.
        self._served: list[Ticket[Any]] = []
        self._taught: Ticket[Any] | None = None
        self._serving = False
        self._wake = threading.Condition()
        self._closing = False
        self._loops = [
            threading.Thread(target=loop, name=f"hope-{name}", daemon=True)
            for name, loop in (("turns", self._serve), ("learning", self._teach))
        ]
        for thread in self._loops:
            thread.start()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops after the present pieces; what was not done is cancelled."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        for thread in self._loops:
            thread.join()

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
        return self._submit(Ticket(work), self._learning)

    def load(self) -> EngineLoad:
        with self._wake:
            turns_now = [*self._served, *self._turns]
            running = sum(ticket.started for ticket in turns_now)
            return EngineLoad(
                running=running,
                waiting=len(turns_now) - running,
                learning=len(self._learning) + (self._taught is not None),
                resident_rows=len(self.arena) + self.arena.held,
                resident_bytes=self.arena.nbytes + self._reader.memories.nbytes,
            )

    # One step is three verbs.

    def _step(self) -> None:
        tickets = self._schedule()
        self._finish(tickets, self._run(tickets))

    def _schedule(self) -> list[Ticket[Any]]:
        """The turns of the next step, each with tokens to compute; waits until there are some."""
        chosen: list[Ticket[Any]] = []
        with self._wake:
            while not self._closing and not (chosen := choose(self._turns, self.arena.room)):
                self._serving = bool(self._turns)
                # Readers that fell behind do not notify, hence the time limit.
                self._wake.wait(timeout=0.02 if self._turns else None)
            self._serving = True
            learning = bool(self._learning or self._taught)
        # Threads that share a core wait for each other, so who learns and who serves divide them.
        torch.set_num_threads(max(1, self._threads - 1) if learning else self._threads)
        going = []
        for ticket in chosen:
            if ticket.wanted and not ticket.cancelled:
                going.append(ticket)
            elif resolve := ticket.advance(None):
                resolve()
            else:
                going.append(ticket)
        self._served = going
        return going

    def _run(self, tickets: list[Ticket[Any]]) -> list[Output | Exception]:
        """The outputs of the step. A turn whose pass cannot be computed fails alone."""
        if not tickets:
            return []
        passes = slices(tickets)
        try:
            return [*self._runner.run(passes)]
        except Exception as error:
            if len(passes) == 1:
                return [error]
        return [self._run_alone(one) for one in passes]

    def _run_alone(self, one: Pass) -> Output | Exception:
        try:
            return self._runner.run([one])[0]
        except Exception as error:
            return error

    def _finish(self, tickets: list[Ticket[Any]], outputs: Sequence[Output | Exception]) -> None:
        """Hands out the outputs; what goes on is put at the end of the queue."""
        going: list[Ticket[Any]] = []
        ended: list[Resolve] = []
        for ticket, output in zip(tickets, outputs, strict=True):
            if isinstance(output, Exception):
                resolve: Resolve | None = ticket.fail(output)
            else:
                resolve = ticket.receive(output)
            if resolve is None:
                going.append(ticket)
            else:
                ended.append(resolve)
        with self._wake:
            self._served = []
            self._turns.extend(going)
        for resolve in ended:
            resolve()

    def _serve(self) -> None:
        while not self._closing:
            try:
                self._step()
            except Exception:  # a bug in the engine itself must not stop every session
                _log.exception("engine step failed")
        for ticket in self._turns:
            ticket.fail(CancelledTurnError("The engine has closed."))()

    def _teach(self) -> None:
        """Learning, one piece of each session in turn."""
        torch.set_num_threads(1)
        while not self._closing:
            with self._wake:
                while not (self._learning or self._closing):
                    self._wake.wait()
                if self._closing:
                    break
                ticket = self._taught = self._learning.popleft()
                serving = self._serving
            self.learner.width = self._threads - 1 if serving else self._threads
            resolve = ticket.advance(None)
            with self._wake:
                self._taught = None
                if resolve is None:
                    self._learning.append(ticket)
            if resolve is not None:
                resolve()
        for ticket in self._learning:
            ticket.fail(CancelledTurnError("The engine has closed."))()

    def _submit(
        self, ticket: Ticket[_Result], queue: deque[Ticket[Any]] | None = None
    ) -> Ticket[_Result]:
        with self._wake:
            if self._closing:
                raise CancelledTurnError("The engine is closing.")
            # From here on only the engine ends it: a waiting task that goes away cannot.
            ticket.future.set_running_or_notify_cancel()
            (self._turns if queue is None else queue).append(ticket)
            self._wake.notify_all()
        return ticket

    def _with_row(
        self,
        key: Hashable,
        work: Callable[[Row], Generator[Pass, Output, _Result]],
        *,
        keep: bool = True,
    ) -> Generator[Pass, Output, _Result]:
        """Runs `work` on the row of `key`; a row that saw an error is not kept."""
        row = self.arena.take(key)
        finished = False
        try:
            result = yield from work(row)
            finished = True
            return result
        finally:
            self.arena.give(key, row, keep=keep and finished)
