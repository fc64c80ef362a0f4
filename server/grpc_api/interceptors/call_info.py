"""Facts about a call that its messages give away: session, version of the memory, outcome.

Reads names and gives them out as tags only (server/telemetry/logs.py). Knows no log and no trace.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.message import Message

from server.app.names import own_name
from server.grpc_api.interceptors.base import Context, Observer
from server.telemetry.logs import session_tag

_SESSION = re.compile(r"users/[^/]*/sessions/[^/]*")
_CODES = {code.value[0]: code.name for code in grpc.StatusCode}


class CallInfo(Observer):
    """Facts about one call so far. `version` is None where no response said one."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._name: str | None = None
        self.version: int | None = None

    @property
    def session(self) -> str | None:
        """A tag of the session, None where none was named. Ask when the call has ended: whom
        `@me` means is known only once the caller is."""
        return None if self._name is None else session_tag(own_name(self._name))

    def reads(self, request: Any) -> Any:
        if isinstance(request, Message):
            self._named(request)
            return request
        return self._named_by_first(request)

    async def _named_by_first(self, requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
        first = True
        async for each in requests:
            if first:
                self._named(each)
                first = False
            yield each

    def _named(self, request: Message) -> None:
        start = getattr(request, "start", request)
        for field in ("session", "name", "parent"):
            value = getattr(start, field, "")
            name = value if isinstance(value, str) else getattr(value, "name", "")
            if found := _SESSION.match(name):
                self._name = found[0]
                return

    def saw(self, response: Any) -> None:
        result = getattr(response, "result", None)
        for part in (response, result, getattr(response, "session", None)):
            told = getattr(part, "usage", part)
            if version := getattr(told, "memory_version", 0):
                self.version = version

    def code(self, error: BaseException | None) -> str:
        """The status of the call, as gRPC names it, when its handler ended with `error`."""
        # A client that goes away closes the generator or cancels the call.
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            return "CANCELLED"
        said: Any = self._context.code()
        return _CODES.get(getattr(said, "value", (said,))[0] or 0, "UNKNOWN")
