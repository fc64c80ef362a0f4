"""Sends a turn's events as a response: a stream of server-sent events, or one object.

Everything that can refuse a turn does so before the first byte, while there is still a status. A
turn that has not begun after `PATIENCE_SECONDS` sends its headers and then comments, since many
clients give up on silence. A client that goes away before the first text takes its turn with it.
After that the reply ends where it was, and is kept: people who press "stop" keep it too.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Receive, Scope, Send

from server.app.events import Began, Finished, GenerateEvent, Learning, TextDelta
from server.http_api.errors import http_error
from server.http_api.shapes import Shape

PATIENCE_SECONDS = 2.0
COMMENT_SECONDS = 5.0
_STREAM_HEADERS = {
    "content-type": "text/event-stream",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}
Turn = Callable[[Callable[[], bool]], AsyncGenerator[GenerateEvent, None]]
"""Begins a turn. It ends its reply when the function that it is given says so."""


@dataclass(slots=True)
class Answer:
    """A response that runs a turn."""

    turn: Turn
    shape: Shape
    headers: dict[str, str]
    stream: bool
    _cut: threading.Event = field(default_factory=threading.Event)
    _begun: bool = False
    _gone: bool = False
    _said: bool = False
    _text: TextDelta = field(default_factory=lambda: TextDelta("", 0))
    _comment: bytes = b": waiting\n\n"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        leaving = asyncio.ensure_future(_left(receive))
        try:
            async with aclosing(self.turn(self._cut.is_set)) as events:
                await self._forward(events, leaving, send)
        except Exception as error:
            await self._fail(error, scope, receive, send)
        finally:
            leaving.cancel()

    async def _forward(
        self,
        events: AsyncGenerator[GenerateEvent, None],
        leaving: asyncio.Future[None],
        send: Send,
    ) -> None:
        coming: asyncio.Task[GenerateEvent] | None = None
        loop = asyncio.get_running_loop()
        silent_until = loop.time() + PATIENCE_SECONDS
        try:
            while True:
                coming = coming or asyncio.ensure_future(_next(events))
                waited: set[asyncio.Future[Any]] = {coming} if self._gone else {coming, leaving}
                left = max(0.0, silent_until - loop.time())
                done, _ = await asyncio.wait(
                    waited,
                    timeout=left if self.stream and not self._gone else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if leaving in done and not self._gone:
                    if not self._said:
                        return
                    self._gone = True
                    if self.stream:
                        self._cut.set()
                if coming in done:
                    try:
                        event = coming.result()
                    except StopAsyncIteration:
                        return
                    finally:
                        coming = None
                    if await self._take(event, send):
                        silent_until = loop.time() + COMMENT_SECONDS
                elif not done:
                    await self._begin(send)
                    await _body(send, self._comment)
                    silent_until = loop.time() + COMMENT_SECONDS
        finally:
            if coming is not None:
                coming.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await coming

    async def _take(self, event: GenerateEvent, send: Send) -> bool:
        """Send what an event says; whether anything was sent."""
        match event:
            case Began():
                self.shape.version = event.memory_version
                self.headers["hope-memory-version"] = str(event.memory_version)
                return False
            case TextDelta():
                self._said = True
                if not self.stream:
                    self._text += event
                if not self.stream or self._gone:
                    return False
                await self._begin(send)
                await _body(send, self.shape.delta(event))
            case Finished():
                if self._gone:
                    return False
                if self.stream:
                    await self._begin(send)
                    await _body(send, self.shape.last(event), more=False)
                else:
                    whole = self.shape.whole(self._text, event)
                    head = {"content-type": "application/json", "content-length": str(len(whole))}
                    await _head(send, 200, self.headers | head)
                    await _body(send, whole, more=False)
            case Learning():
                self._comment = b": learning\n\n"
                return False
            case _:
                return False
        return True

    async def _begin(self, send: Send) -> None:
        if not self._begun:
            self._begun = True
            await _head(send, 200, self.headers | _STREAM_HEADERS)
            await _body(send, self.shape.first())

    async def _fail(self, error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = http_error(error)
        if self._gone:
            return
        if self._begun:
            await _body(send, self.shape.failed(refusal), more=False)
            return
        refusal.headers = self.headers | refusal.headers
        await refusal.response()(scope, receive, send)


async def _next(events: AsyncGenerator[GenerateEvent, None]) -> GenerateEvent:
    return await anext(events)


async def _left(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _head(send: Send, status: int, headers: dict[str, str]) -> None:
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


async def _body(send: Send, data: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})
