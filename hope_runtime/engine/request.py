"""Requests: work that was submitted to an engine and that its steps (scheduler.py) move along.

A request owns all its state: prompt, window, output so far, status and timings. It changes nothing
but its slot, which is a cache, so dropping it anywhere leaves no trace, and that is all that
cancelling takes.

Shape suffixes: T tokens, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from hope_runtime.engine.kv_slots import Slot, SlotPool
from hope_runtime.engine.runner import ForwardChunk, Output
from hope_runtime.engine.window_reader import Reader, Reading, WindowReading
from hope_runtime.errors import CancelledTurnError

_Result = TypeVar("_Result")
Ready = Callable[[], bool]


class Chunk(Protocol):
    """Tokens that a request needs computed next."""

    @property
    def ids(self) -> tuple[int, ...]: ...


def always_ready() -> bool:
    """The reader of a request that nobody reads as a stream."""
    return True


class Status(Enum):
    """Stage of a request."""

    WAITING = "waiting"
    ENCODING = "encoding"
    READING = "reading"
    WRITING = "writing"
    FINISHED = "finished"


@dataclass(slots=True)
class Timings:
    """Monotonic times, in seconds, at which a request began and had read its prompt."""

    begun: float = 0.0
    prefilled: float = 0.0

    def spent(self) -> tuple[float, float]:
        """Seconds that the prompt took, and seconds since."""
        return self.prefilled - self.begun, time.monotonic() - self.prefilled


class Request(Generic[_Result]):
    """A piece of work. `future` resolves on a thread of the engine.

    `ready` may say that the reader of a stream is behind; then this request waits, and no other.
    Kinds implement `_encode`, `_begin`, `_advance` and `_release`; an exception there fails this
    request only.
    """

    def __init__(self, ready: Ready = always_ready) -> None:
        self.future: Future[_Result] = Future()
        self.ready = ready
        self.status = Status.WAITING
        self.timings = Timings()
        self.cancelled = False
        # The tokens it needs next; None until its text is encoded, and after its end.
        self.chunk: Chunk | None = None
        # Share of the work that is done, 0 to 1, where its kind tells. Any thread may read it.
        self.progress: float | None = None
        self._encoding: Iterator[None] = iter(())
        self._outcome: _Result | None = None
        self._error: Exception | None = None

    def cancel(self) -> None:
        """End the work before its next chunk; it leaves no trace. Finished work stays finished."""
        self.cancelled = True

    @property
    def waiting(self) -> bool:
        """Whether it has not begun."""
        return self.status is Status.WAITING

    @property
    def encoding(self) -> bool:
        """Whether it has begun and a part of its text is still to be encoded."""
        return self.status is Status.ENCODING

    @property
    def finished(self) -> bool:
        """Whether it has ended, in whatever way; `resolve` has then to be called."""
        return self.status is Status.FINISHED

    def begin(self) -> None:
        """Start the work with the first part of its text; see `encode`."""
        self.status = Status.ENCODING
        self.timings.begun = time.monotonic()
        self._encoding = self._encode()
        self.encode()

    def encode(self) -> None:
        """Encode the next bounded part of the text; after the last one there is a chunk to read,
        unless the request has ended."""
        self._guard(self._encode_part)

    def next_chunk(self, limit: int | None) -> Chunk:
        """Tokens to compute now; a kind that can be sliced gives at most `limit` of them."""
        assert self.chunk is not None, "the request has begun"
        return self.chunk

    def accept(self, output: Any) -> None:
        """Take the output of the chunk, or the exception that computing it raised."""
        if isinstance(output, Exception):
            self.fail(output)
        else:
            self._guard(lambda: self._advance(output))

    def end_if_cancelled(self) -> None:
        """End the work now if `cancel` was called."""
        self._guard(lambda: None)

    def fail(self, error: Exception) -> None:
        """End the work with an error."""
        self._finish(None, error)

    def resolve(self) -> None:
        """Tell the waiters, once the scheduler has settled the counters that they read."""
        if self._error is not None:
            self.future.set_exception(self._error)
        else:
            self.future.set_result(self._outcome)  # type: ignore[arg-type]

    def _finish(self, outcome: _Result | None, error: Exception | None = None) -> None:
        assert not self.finished, "a request ends once"
        self.chunk = None
        self._outcome, self._error = outcome, error
        self.status = Status.FINISHED
        self._release(kept=error is None)

    def _guard(self, step: Callable[[], None]) -> None:
        try:
            if self.cancelled:
                raise CancelledTurnError("the turn was cancelled without effect")
            step()
        except Exception as error:
            self.fail(error)

    def _encode_part(self) -> None:
        for _ in self._encoding:
            return
        self.status = Status.READING
        self._begin()

    def _encode(self) -> Iterator[None]:
        """Take what the work needs and encode its text, yielding between bounded parts, so that
        other requests go on meanwhile; kinds without a text have nothing to do here."""
        return iter(())

    def _begin(self) -> None:
        """Set the first chunk, or `_finish`; the text is encoded."""
        raise NotImplementedError

    def _advance(self, output: Any) -> None:
        """Take the output of `chunk`, then set the next chunk or `_finish`."""
        raise NotImplementedError

    def _release(self, *, kept: bool) -> None:
        """Return what the request holds; `kept` says that it ended well."""


class SlotRequest(Request[_Result]):
    """A request that reads with a frozen base model, in a slot of the pool while it runs.

    `key` names the slot to reuse. With `keeps_window` the window stays there for the next request.
    """

    chunk: ForwardChunk | None
    keeps_window = True

    def __init__(
        self, reader: Reader, pool: SlotPool, key: Hashable, ready: Ready = always_ready
    ) -> None:
        super().__init__(ready)
        self.reader = reader
        self.slot: Slot | None = None
        self._pool, self._key = pool, key
        self._reading: WindowReading | None = None
        # Hidden states of the slices of `chunk` that were computed.
        self._parts: list[Tensor] = []

    def next_chunk(self, limit: int | None) -> ForwardChunk:
        """The rest of the chunk, or its next `limit` tokens."""
        assert self.chunk is not None, "the request has begun"
        if not self._parts and (limit is None or len(self.chunk.ids) <= limit):
            return self.chunk
        return self.chunk.slice(sum(map(len, self._parts)), limit)

    def accept(self, output: Output | Exception) -> None:
        """Take the output of a slice, and go on after the chunk's last one."""
        assert self.chunk is not None, "the request has begun"
        if isinstance(output, Exception):
            self.fail(output)
            return
        if not self._parts and len(output.hidden_TD) == len(self.chunk.ids):
            super().accept(output)
            return
        self._parts.append(output.hidden_TD)
        if sum(map(len, self._parts)) < len(self.chunk.ids):
            if reading := self._reading:
                self._guard(lambda: reading.score(output.hidden_TD))
            return
        parts, self._parts = self._parts, []
        super().accept(Output(torch.cat(parts), output.logits_V, output.token))

    def _take_slot(self) -> Slot:
        self.slot = self._pool.take(self._key)
        return self.slot

    def _release(self, *, kept: bool) -> None:
        if self.slot is not None:
            self._pool.give(self._key, self.slot, keep=self.keeps_window and kept)
            self.slot = None

    def _read(self, tokens: tuple[int, ...], score: Sequence[int] = ()) -> None:
        assert self.slot is not None
        self._reading = self.reader.read(self.slot, tokens, score=score)
        self.chunk = self._reading.chunk

    def _read_on(self, output: Output) -> Reading | None:
        """Take the output of a chunk of the window; its reading once all of it was read."""
        assert self._reading is not None
        self._reading.accept(output)
        self.chunk = self._reading.chunk
        if self.chunk is not None:
            return None
        reading, self._reading = self._reading.result, None
        return reading
