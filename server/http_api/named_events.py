"""Server-sent events with names, for the native routes, whose readers know them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import StreamingResponse

_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
WAITING = b": waiting\n\n"


def named_event(name: str, content: Any, *, number: int | None = None) -> bytes:
    """One event. A reader that comes back names the last `number` that it saw."""
    place = "" if number is None else f"id: {number}\n"
    return f"{place}event: {name}\ndata: {json.dumps(content, ensure_ascii=False)}\n\n".encode()


def event_stream(events: AsyncIterator[bytes]) -> StreamingResponse:
    """A response that sends events as they come."""
    return StreamingResponse(events, headers=_HEADERS, media_type="text/event-stream")
