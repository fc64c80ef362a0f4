"""Thread on which turns meet the process of vLLM: it begins them, passes their requests on, and
hands out what comes back.

As many turns run as there are rows; the others wait. Knows turns (turns.py) and which memories are
where (adapters.py); supervisor.py keeps the process.
"""

from __future__ import annotations

import itertools
import logging
import queue
import secrets
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from hope_runtime.engine.request import Request
from hope_runtime.engine.vllm import turns
from hope_runtime.engine.vllm.adapters import NONE, Adapters
from hope_runtime.engine.vllm.messages import (
    Abort,
    Begin,
    Forget,
    FromProcess,
    Piece,
    Stepped,
    ToProcess,
)
from hope_runtime.errors import CancelledTurnError, EngineLostError, HopeError
from hope_runtime.session.memory import SessionMemory

_Result = TypeVar("_Result")
_log = logging.getLogger(__name__)

# Conversations whose keys and values may be found again.
MAX_SALTS = 4096
# How soon a turn that was cancelled, or a reader that has caught up, is seen.
POLL_SECONDS = 0.02


@dataclass(eq=False, slots=True)
class _Turn:
    """A turn that runs or waits; `process_request` numbers its request in the process, if any."""

    number: int
    row: Hashable
    memory: SessionMemory | None
    request: Request[Any]
    adapter: int = NONE
    process_request: int | None = None
    # Wanted next, while no request is made for it.
    ask: turns.Ask | None = None
    # Whether the present request can be ended anywhere, and whether it was told to end.
    pausable: bool = False
    aborting: bool = False


class Frontend:
    """Serves turns from `start` until it is closed, at most `rows` at a time.

    `send` reaches the process, or raises EngineLostError; its messages come in through `receive`,
    its loss through `lost`, from any thread. The model ends a reply with one of `stop_ids()`.
    """

    def __init__(
        self,
        adapters: Adapters,
        *,
        rows: int,
        stop_ids: Callable[[], frozenset[int]],
        send: Callable[[ToProcess], None],
    ) -> None:
        self._adapters = adapters
        self._rows = rows
        self._stop_ids = stop_ids
        self._send = send
        self._salts: OrderedDict[Hashable, str] = OrderedDict()
        self._numbers = itertools.count(1)
        self._waiting: deque[_Turn] = deque()
        self._running: list[_Turn] = []
        # By number of the request, until it has ended in the process.
        self._requests: dict[int, _Turn] = {}
        self._events: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        # Set while nothing more is taken.
        self._closing = False
        self._taking = threading.Lock()
        self._thread = threading.Thread(target=self._serve, name="hope-turns", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop; what is left is cancelled."""
        with self._taking:
            if self._closing:
                return
            self._closing = True
            self._events.put(self._stop)
        self._thread.join()

    def submit(
        self, row: Hashable, memory: SessionMemory | None, request: Request[_Result]
    ) -> Request[_Result]:
        """Take a turn. Raises CancelledTurnError when it is too late."""
        with self._taking:
            if self._closing:
                raise CancelledTurnError("the engine is closing")
            # From here on only the engine ends it: a waiting task that goes away cannot.
            request.future.set_running_or_notify_cancel()
            turn = _Turn(next(self._numbers), row, memory, request)
            self._events.put(partial(self._waiting.append, turn))
        return request

    def drop(self, row: Hashable) -> None:
        """Make what was computed for the row impossible to find again."""
        self._events.put(partial(self._salts.pop, row, None))

    def receive(self, message: FromProcess) -> None:
        """Take a message of the process. Safe on any thread."""
        self._events.put(partial(self._take, message))

    def lost(self) -> None:
        """Fail the turns that are in the process. Safe on any thread."""
        self._events.put(self._fail_all)

    @property
    def owed(self) -> bool:
        """Whether the process has something to do."""
        return bool(self._requests)

    @property
    def load(self) -> tuple[int, int, int]:
        """Turns that have begun, turns that wait, and rows whose keys and values may be found."""
        return len(self._running), len(self._waiting), len(self._salts)

    # All of the following runs on the engine's thread.

    def _serve(self) -> None:
        stopped = False
        while not stopped:
            here = bool(self._running or self._waiting)
            try:
                # Cancelled turns and readers that fell behind do not notify.
                event = self._events.get(timeout=POLL_SECONDS if here else None)
            except queue.Empty:
                event = None
            try:
                if event is not None:
                    event()
                stopped = event == self._stop
                self._admit()
                self.poll_running()
            except Exception:  # a bug in the engine itself must not stop every session
                _log.exception("the vLLM engine failed")

    def _stop(self) -> None:
        for turn in (*self._running, *self._waiting):
            turn.request.fail(CancelledTurnError("the engine is closed"))
            turn.request.resolve()
        self._running.clear()
        self._waiting.clear()

    def _admit(self) -> None:
        """Begin turns while there are rows. A turn that was aborted holds its row to the end."""
        for _ in range(len(self._waiting)):
            turn = self._waiting.popleft()
            has_room = len(self._busy()) < self._rows and turn.request.ready()
            if not has_room and not turn.request.cancelled:
                self._waiting.append(turn)
                continue
            self._running.append(turn)
            if self._advance(turn, None):
                try:
                    turn.adapter = self._adapters.take(turn.memory, self._send)
                except HopeError as error:
                    self._fail(turn, error)

    def _busy(self) -> set[int]:
        """Numbers of the turns that hold a row."""
        return {turn.number for turn in (*self._running, *self._requests.values())}

    def poll_running(self) -> None:
        """End cancelled turns, and make requests for those whose readers are ready."""
        for turn in [*self._running]:
            if turn.request.cancelled:
                self._advance(turn, None)
            elif turn.process_request is None and turn.ask is not None:
                if turn.request.ready():
                    self._begin(turn, turn.ask)
            elif turn.pausable and not turn.request.ready():
                # It goes on with another request, from the tokens that it has by then.
                self._abort(turn)

    def _begin(self, turn: _Turn, ask: turns.Ask) -> None:
        request = next(self._numbers)
        begin = Begin(
            request,
            turn.number,
            turn.adapter,
            self._salt(turn.row),
            ask.ids,
            ask.max_tokens,
            tuple(sorted(self._stop_ids())),
            ask.sampling,
            ask.reply,
            ask.score,
            ask.afresh,
        )
        try:
            self._send(begin)
        except EngineLostError as error:
            self._fail(turn, error)
            return
        turn.ask, turn.process_request = None, request
        turn.pausable, turn.aborting = ask.max_tokens > 1, False
        self._requests[request] = turn

    def _take(self, message: FromProcess) -> None:
        assert isinstance(message, Stepped)
        for piece in message.pieces:
            turn = self._requests.get(piece.request)
            if turn is None:
                continue
            if piece.ended:
                del self._requests[piece.request]
                turn.process_request = None
            if turn not in self._running:  # it has ended before its request
                if piece.ended:
                    self._release(turn)
            elif turn.ask is None:  # else it has all that it wants of this request
                if piece.failure is not None:
                    self._fail(turn, HopeError(f"vLLM rejected a request: {piece.failure}"))
                else:
                    self._advance(turn, piece)

    def _advance(self, turn: _Turn, piece: Piece | None) -> bool:
        """Run a turn up to what it wants next; whether it goes on."""
        request = turn.request
        request.begin() if request.waiting else request.accept(piece)
        if request.finished:
            self._end(turn)
            return False
        if request.chunk is not None:
            assert isinstance(request.chunk, turns.Ask)
            turn.ask = request.chunk
            self._abort(turn)
        return True

    def _fail(self, turn: _Turn, error: Exception) -> None:
        turn.request.fail(error)
        self._end(turn)

    def _abort(self, turn: _Turn) -> None:
        """End the turn's present request, if there is one; the process says when it has ended."""
        if turn.process_request is not None and not turn.aborting:
            turn.aborting = True
            self._send_quietly(Abort(turn.process_request))

    def _end(self, turn: _Turn) -> None:
        self._running.remove(turn)
        if turn.process_request is None:
            self._release(turn)
        else:  # the row is free again when the process says so
            self._abort(turn)
        turn.request.resolve()

    def _release(self, turn: _Turn) -> None:
        self._adapters.give(turn.adapter)
        self._send_quietly(Forget(turn.number))

    def _fail_all(self) -> None:
        """The process is gone, and everything that was in it."""
        self._requests.clear()
        self._adapters.clear()
        self._salts.clear()
        for turn in [*self._running]:
            turn.process_request = None
            error = EngineLostError("the vLLM process was lost; retry in a few seconds")
            self._running.remove(turn)
            turn.request.fail(error)
            turn.request.resolve()

    def _send_quietly(self, message: Abort | Forget) -> None:
        """A process that is lost needs no word; that it is lost will be heard."""
        with suppress(EngineLostError):
            self._send(message)

    def _salt(self, row: Hashable) -> str:
        """Secret that tells the row's keys and values from all others; nobody else can guess it."""
        salt = self._salts.pop(row, None) or secrets.token_hex(16)
        self._salts[row] = salt
        while len(self._salts) > MAX_SALTS:
            self._salts.popitem(last=False)
        return salt
