"""The engine of a frozen backbone with low-rank levels.

Turns are generators (turn.py) that yield what they want computed; a step (loop.py) computes the
tokens of all of them as one batch. Learning (learning/) runs beside it on threads of its own, on
the cores that turns leave: how many it has changes how long it takes and not what it finds.

Knows no users and no stores: callers bring an immutable memory and get back what happened.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Sequence
from typing import Any, TypeVar

import torch

from hope_runtime.engine import turn as turns
from hope_runtime.engine.adapter_engine import AdapterEngine
from hope_runtime.engine.base import EngineLoad
from hope_runtime.engine.kv_slots import Row, SlotPool
from hope_runtime.engine.loop import Loop
from hope_runtime.engine.reply import OnText
from hope_runtime.engine.runner import Output, Pass, Runner
from hope_runtime.engine.scheduler import Resolve, Ticket, slices
from hope_runtime.engine.window_reader import Reader
from hope_runtime.errors import ModelError
from hope_runtime.layers.kv_cache import KVCache
from hope_runtime.learning import Consolidation, Learner
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.fast_memory.weights import FastMemory
from hope_runtime.session.fold import Boundary
from hope_runtime.session.log import Record
from hope_runtime.session.memory import SessionMemory

# More turns than this at a time wait.
MAX_SLOTS = 1024

_Result = TypeVar("_Result")


class TorchEngine(AdapterEngine):
    """See SessionEngine.

    `branch` is the trained fast memory beside the model, if it has one. `threads` is the number of
    compute threads, which changes no memory. `window_cache_bytes` are
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
        fast_memory: FastMemory | None = None,
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
        super().__init__(
            model, window_tokens, fast_memory, learner or Learner(model, threads, fast_memory)
        )
        slots = KVCache.pool(
            model.config,
            min(MAX_SLOTS, window_cache_bytes // slot_bytes),
            capacity=window_tokens,
            dtype=model.dtype,
            device=model.device,
        )
        self.slot_pool = SlotPool(slots)
        self._reader = Reader(
            model, window_tokens, memory_bytes=memory_cache_bytes, fast_memory=fast_memory
        )
        self._runner = Runner(model)
        self._loop = Loop(
            self._compute,
            threads=threads or torch.get_num_threads(),
            room=lambda: self.slot_pool.room,
            widen=self._widen,
        )
        self._loop.start()

    def __enter__(self) -> TorchEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops after the present pieces; what was not done is cancelled."""
        self._loop.close()

    # What can be submitted. `row` names the caches to use; one turn at a time a row.

    def generate(
        self,
        row: Hashable,
        memory: SessionMemory,
        turn: turns.GenerateTurn,
        on_text: OnText,
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
        return self._loop.serve(Ticket(work, ready=ready))

    def read(
        self, row: Hashable, memory: SessionMemory, record: Record
    ) -> Ticket[turns.ReadOutcome]:
        """Reads a document's record, scoring it."""
        work = self._with_row(
            row,
            lambda slot: turns.read_record(self._reader, slot, memory, record, self.window_tokens),
        )
        return self._loop.serve(Ticket(work))

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
        return self._loop.serve(Ticket(work))

    def consolidate(
        self, memory: SessionMemory, boundary: Boundary
    ) -> Ticket[tuple[SessionMemory, Consolidation]]:
        """Learns at one boundary; a pure function of memory and boundary."""
        work = self.learner.consolidate(memory, boundary)
        return self._loop.teach(Ticket(work))

    def drop(self, row: Hashable) -> None:
        self.slot_pool.drop(row)

    def load(self) -> EngineLoad:
        running, waiting, learning = self._loop.load()
        return EngineLoad(
            running=running,
            waiting=waiting,
            learning=learning,
            resident_rows=len(self.slot_pool) + self.slot_pool.held,
            resident_bytes=self.slot_pool.nbytes + self._reader.memories.nbytes,
        )

    def _widen(self, threads: int) -> None:
        self.learner.width = threads

    def _compute(self, tickets: Sequence[Ticket[Any]]) -> list[Resolve | None]:
        """One step of the loop: runs the next slice of each turn, and hands out what came of it."""
        outputs = self._run(slices(tickets))
        return [
            ticket.fail(output) if isinstance(output, Exception) else ticket.receive(output)
            for ticket, output in zip(tickets, outputs, strict=True)
        ]

    def _run(self, passes: list[Pass]) -> list[Output | Exception]:
        """The outputs of the step. A turn whose pass cannot be computed fails alone."""
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

    def _with_row(
        self,
        key: Hashable,
        work: Callable[[Row], Generator[Pass, Output, _Result]],
        *,
        keep: bool = True,
    ) -> Generator[Pass, Output, _Result]:
        """Runs `work` on the row of `key`; a row that saw an error is not kept."""
        row = self.slot_pool.take(key)
        finished = False
        try:
            result = yield from work(row)
            finished = True
            return result
        finally:
            self.slot_pool.give(key, row, keep=keep and finished)
