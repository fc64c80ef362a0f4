"""Event streams: a turn puts events in, its reader takes them out, neither outruns the other."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, Generic, TypeVar, cast

from server.app.events import GenerateEvent, IngestEvent, ScoreEvent, TextDelta

Event = TypeVar("Event", GenerateEvent, IngestEvent, ScoreEvent)

# A reader this many events behind makes its own turn wait, and no other.
PLENTY = 64


class StalledStreamError(Exception):
    """A client stopped reading, and its turn held what others wait for."""


class EventStream(Generic[Event]):
    """Events of one turn that its reader has not taken yet.

    A reader that takes nothing for `stalled_seconds` while there is plenty ends the turn; None
    waits for ever. Belongs to the event loop that it was made on.
    """

    def __init__(self, stalled_seconds: float | None = None) -> None:
        self._stalled_seconds = stalled_seconds
        self._loop = asyncio.get_running_loop()
        self._events: deque[Event] = deque()
        self._taken = 0
        # Set by an event that comes, and when the turn ends.
        self._woken = asyncio.Event()
        # Set while the reader has taken everything and waits for more.
        self._hungry = asyncio.Event()

    @property
    def has_plenty(self) -> bool:
        """Whether the reader is so far behind that the turn should wait. Any thread may ask."""
        return len(self._events) >= PLENTY

    def put(self, event: Event) -> None:
        """Add an event; called on the event loop."""
        self._events.append(event)
        self._hungry.clear()
        self._woken.set()

    def put_threadsafe(self, event: Event) -> None:
        """Add an event from another thread, in the order of the calls."""
        self._loop.call_soon_threadsafe(self.put, event)

    async def taken(self) -> None:
        """Wait until the reader has taken every event and asks for the next."""
        await self._hungry.wait()

    async def run(self, work: Coroutine[Any, Any, None]) -> AsyncGenerator[Event, None]:
        """Run `work`, which puts the events, and yield them. Text that piled up comes as one event.

        Raises the error that ended `work`, after its events, and StalledStreamError. Closing the
        iterator cancels `work` and returns when it has left no trace.
        """
        task = asyncio.ensure_future(work)
        task.add_done_callback(lambda _: self._woken.set())
        watch = asyncio.create_task(self._stalled())
        # Cancelled once at most: what the work still does to leave no trace goes on undisturbed.
        watch.add_done_callback(lambda ended: ended.cancelled() or task.cancel())
        try:
            while True:
                while self._events:
                    yield self._take()
                if task.done():
                    break
                self._hungry.set()
                self._woken.clear()
                await self._woken.wait()
            try:
                await task
            except asyncio.CancelledError:
                if not watch.done():
                    raise
                raise StalledStreamError(
                    f"the reply was not read for {self._stalled_seconds:g} seconds, so the turn "
                    "was cancelled without effect; read replies without long pauses"
                ) from None
        finally:
            watch.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait([task])

    def _take(self) -> Event:
        event = self._events.popleft()
        self._taken += 1
        while isinstance(event, TextDelta) and self._events:
            following = self._events[0]
            if not isinstance(following, TextDelta):
                break
            self._events.popleft()
            event = cast(Event, event + following)
        return event

    async def _stalled(self) -> None:
        """Return when nothing was taken for so long while there was plenty to take."""
        if self._stalled_seconds is None:
            await asyncio.Event().wait()
            return
        taken = -1
        while not (self.has_plenty and self._taken == taken):
            taken = self._taken
            await asyncio.sleep(self._stalled_seconds)
