"""What runs in the next step: which turns, and how much of each.

A step takes one token for every reply that is being written, up to `MAX_ROWS`, and of one turn that
reads (a prompt, a document, a window that hopped) a slice beside them, so that no reply waits for a
long text. When nobody writes, that turn reads its whole chunk. What took part goes to the end of
the queue, so everyone gets a share.

Knows tickets and passes; computes nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from hope_runtime.engine.runner import Output, Pass
from hope_runtime.errors import CancelledTurnError

_Result = TypeVar("_Result")
Resolve = Callable[[], None]

MAX_ROWS = 16
# Tokens of a longer text that are read in one step beside replies. A step of few tokens costs
# what reading the weights once costs, so these are nearly free; more of them would be felt.
SLICE_TOKENS = 16


class Wanted(Protocol):
    """What a turn waits for: these tokens, read behind what it has."""

    @property
    def ids(self) -> tuple[int, ...]: ...


@dataclass(eq=False, slots=True)
class Ticket(Generic[_Result]):
    """A piece of work that was submitted. `future` resolves on a thread of the engine.

    `ready` may say that the reader of a stream is behind; the work then waits, and only it.
    """

    work: Generator[Any, Any, _Result]
    future: Future[_Result] = field(default_factory=Future)
    ready: Callable[[], bool] = lambda: True
    # Set by cancel(), seen before the next piece.
    cancelled: bool = False
    # Set by the engine when the first piece ran.
    started: bool = False
    # What a turn waits for, and the hidden states of as much of it as was computed.
    wanted: Wanted | None = None
    parts: list[Tensor] = field(default_factory=list)

    def cancel(self) -> None:
        """Ends the work before its next piece; it leaves no trace. Done work stays done."""
        self.cancelled = True

    @property
    def rest(self) -> tuple[int, ...]:
        """Tokens of `wanted` that were not computed yet."""
        assert self.wanted is not None
        return self.wanted.ids[sum(map(len, self.parts)) :]

    def advance(self, output: Any) -> Resolve | None:
        """Runs the work up to its next pass. Returns how to resolve the future when it has ended,
        which is left to the caller: whoever waits must find the engine's books in order."""
        self.wanted, self.parts = None, []
        try:
            if self.cancelled:
                self.work.close()
                raise CancelledTurnError("the turn was cancelled without effect")
            self.started = True
            self.wanted = self.work.send(output)
        except StopIteration as end:
            return partial(self.future.set_result, end.value)
        except Exception as error:
            return partial(self.future.set_exception, error)
        return None

    def receive(self, output: Output) -> Resolve | None:
        """Takes the output of the slice that was scheduled, and advances after the last one."""
        self.parts.append(output.hidden_TD)
        if self.rest:
            return None
        hidden_TD = self.parts[0] if len(self.parts) == 1 else torch.cat(self.parts)
        return self.advance(Output(hidden_TD, output.logits_V))

    def fail(self, error: Exception) -> Resolve:
        """Ends the work with an error that its pass met."""
        self.work.close()
        return partial(self.future.set_exception, error)


def choose(queue: deque[Ticket[Any]], room: int) -> list[Ticket[Any]]:
    """Takes the turns of the next step out of `queue`.

    Cancelled work is among them at once, and so is work that has not begun, as far as there is
    `room` for more rows in use: that costs no computing. So is work that has begun and waits for
    nothing, because it gave others their turn.
    """
    chosen: list[Ticket[Any]] = []
    rows = 0
    reading = False
    for _ in range(len(queue)):
        ticket = queue.popleft()
        if ticket.cancelled:
            chosen.append(ticket)
        elif not ticket.ready():
            queue.append(ticket)
        elif ticket.wanted is None and ticket.started:
            chosen.append(ticket)
        elif ticket.wanted is None:
            (chosen if room > 0 else queue).append(ticket)
            room -= 1
        elif len(ticket.wanted.ids) == 1:
            (chosen if rows < MAX_ROWS else queue).append(ticket)
            rows += 1
        else:
            (queue if reading else chosen).append(ticket)
            reading = True
    return chosen


def slices(tickets: Sequence[Ticket[Any]]) -> list[Pass]:
    """What each of the chosen turns computes in this step."""
    writing = any(ticket.wanted and len(ticket.wanted.ids) == 1 for ticket in tickets)
    found = []
    for ticket in tickets:
        assert isinstance(ticket.wanted, Pass)
        rest = ticket.rest
        ids = rest[:SLICE_TOKENS] if writing else rest
        found.append(Pass(ticket.wanted.row, ids, ticket.wanted.scores and len(ids) == len(rest)))
    return found
