"""Native routes by which a session is watched, and its learning switched.

GET  /v1/sessions/{session}/events     records of its log and learning under way, as they come
GET  /v1/sessions/{session}/versions   the versions that it can go back to
POST /v1/sessions/{session}/freeze     {"frozen": true} stops its learning, false resumes it
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hope_runtime.errors import CorruptStateError
from hope_runtime.session.log import Record, RecordKind
from hope_runtime.tokenizer import Tokenizer
from server.app import session_events, versions
from server.app.events import Learning
from server.app.names import session_key
from server.app.session_events import Changed, Idle, Logged, SessionEvent, noted_figures, said_in
from server.app.sessions import Sessions
from server.http_api.errors import http_error, invalid
from server.http_api.named_events import WAITING, event_stream, named_event
from server.http_api.requests import json_object, read_json
from server.store.base import MAX_PAGE_SIZE, SessionKey

# Between two comments of a stream that has nothing to say: proxies close silent connections.
QUIET_SECONDS = 15.0


def key_of(request: Request, user: str) -> SessionKey:
    """The session that a path names. Raises InvalidRequestError, NotFoundError."""
    return session_key(f"users/{user}/sessions/{request.path_params['session']}", field="session")


@dataclass(frozen=True, slots=True)
class Watching:
    """Answers the routes above with `sessions`. `instance` tells this process from others."""

    sessions: Sessions
    instance: str

    async def events(self, request: Request, user: str) -> Response:
        """Tell what happens to a session. Last-Event-ID goes on behind that record."""
        after = request.headers.get("last-event-id")
        if after is not None and not (after.isdecimal() and len(after) <= 15):
            raise invalid("Last-Event-ID must be the id of an event", "last-event-id")
        events = session_events.follow(
            self.sessions, key_of(request, user), None if after is None else int(after)
        )
        # What refuses the request does so before the first byte.
        first = await anext(events, None)
        return event_stream(self._told(first, events))

    async def versions(self, request: Request, user: str) -> Response:
        """List the kept versions, oldest first, each with the snapshots that name it."""
        key = key_of(request, user)
        names: dict[int, list[str]] = {}
        token = ""
        while True:
            page, token = await versions.snapshots(
                self.sessions, key, page_size=MAX_PAGE_SIZE, page_token=token
            )
            for each in page:
                names.setdefault(each.version, []).append(each.name)
            if not token:
                break
        shown = [
            {
                "version": info.version,
                "parent_version": info.parent_version,
                "log_record": info.log_seq,
                "create_time": info.create_time,
                "snapshots": names.get(info.version, []),
            }
            for info in await versions.kept(self.sessions, key)
        ]
        return JSONResponse({"versions": shown})

    async def freeze(self, request: Request, user: str) -> Response:
        """Stop the learning of a session, or resume it."""
        key = key_of(request, user)
        frozen = json_object(await read_json(request)).get("frozen")
        if not isinstance(frozen, bool):
            raise invalid("frozen must be true or false", "frozen")
        await versions.set_frozen(self.sessions, key, frozen)
        return JSONResponse({"name": str(key), "frozen": frozen})

    async def _told(
        self, first: SessionEvent | None, events: AsyncGenerator[SessionEvent, None]
    ) -> AsyncIterator[bytes]:
        yield named_event("hello", {"instance": self.instance})
        try:
            if first is not None:
                yield self._event(first)
            async with aclosing(_with_pauses(events)) as following:
                async for event in following:
                    yield WAITING if event is None else self._event(event)
        except Exception as error:
            yield named_event("error", http_error(error).body)

    def _event(self, event: SessionEvent) -> bytes:
        match event:
            case Logged(seq, record):
                content = _shown(record, self.sessions.tokenizer)
                return named_event(record.kind, {"log_record": seq} | content, number=seq)
            case Changed(head):
                content = {"memory_version": head.version, "etag": head.etag}
                return named_event("changed", content)
            case Learning(level, fraction):
                return named_event("learning", {"level": level, "fraction": fraction})
            case Idle():
                return named_event("idle", {})


async def _with_pauses(
    events: AsyncGenerator[SessionEvent, None],
) -> AsyncGenerator[SessionEvent | None, None]:
    """The events, and None whenever there was none for QUIET_SECONDS."""

    async def following() -> SessionEvent:
        return await anext(events)

    coming = asyncio.ensure_future(following())
    try:
        while True:
            done, _ = await asyncio.wait([coming], timeout=QUIET_SECONDS)
            if not done:
                yield None
                continue
            try:
                event = coming.result()
            except StopAsyncIteration:
                return
            coming = asyncio.ensure_future(following())
            yield event
    finally:
        coming.cancel()
        with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration, Exception):
            await coming
        await events.aclose()


def _shown(record: Record, tokenizer: Tokenizer) -> dict[str, Any]:
    """A record of the log, as much of it as its kind has."""
    match record.kind:
        case RecordKind.TURN | RecordKind.DOCUMENT:
            shown: dict[str, Any] = {
                "conversation": record.conversation,
                "learnable_tokens": record.learnable_tokens,
                "said": [
                    {
                        "speaker": each.speaker,
                        "text": each.text,
                        "learn": each.learnable,
                        "tokens": each.tokens,
                    }
                    for each in said_in(record, tokenizer)
                ],
            }
            if record.kind is RecordKind.DOCUMENT:
                return shown | {
                    "document": record.document,
                    "committed_bytes": record.committed_bytes,
                    "ended": record.ended,
                }
            return shown | {"fresh": record.fresh}
        case RecordKind.CONSOLIDATION:
            try:
                figures = noted_figures(record.notes)
            except CorruptStateError:  # an imported log may hold anything
                figures = {}
            return figures | {
                "memory_version": record.notes.get("version", 0),
                "guards": record.notes.get("guards", []),
            }
        case RecordKind.ROLLBACK:
            return {"version": record.target_version}
        case RecordKind.FORGET:
            # Of statements, the records that held them.
            places = sorted({place.seq for place in record.places})
            return {"document": record.document, "log_records": places}
        case RecordKind.END_CONVERSATION:
            return {"conversation": record.conversation}
        case _:
            return {"levels": list(record.levels)}
