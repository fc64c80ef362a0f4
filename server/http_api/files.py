"""Native routes that carry bytes: documents to read, and sessions as files.

POST /v1/sessions/{session}/documents   a form with a file of UTF-8 text; answers with events
GET  /v1/sessions/{session}/export      the session as one file
POST /v1/sessions/import?session=NAME   the session that such a file holds
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from server.app import archive, ingest
from server.app.events import Ingested, IngestEvent, IngestProgress
from server.app.names import MAX_DOCUMENT_NAME, conversation_name, session_key, short_name
from server.app.sessions import Sessions
from server.http_api.errors import HttpError, http_error, invalid

_CHUNK_BYTES = 64 << 10
# Of a form, which is kept in a temporary file until it has been read; gRPC has no such limit.
MAX_FORM_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Files:
    """Answers the routes above with `sessions`."""

    sessions: Sessions

    async def read(self, request: Request, user: str) -> Response:
        """Read a document into a session's memory. The header Hope-Offset resumes one behind its
        committed bytes."""
        key = session_key(
            f"users/{user}/sessions/{request.path_params['session']}", field="session"
        )
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise HttpError(
                415,
                "the body must be a form (multipart/form-data) with the part 'file'",
                code="unsupported_media_type",
            )
        _check_length(request)
        form = await request.form(max_files=1, max_fields=8)
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise invalid("the form must have a part 'file'", "file")
        offset = request.headers.get("hope-offset", "0")
        if not offset.isdecimal():
            raise invalid("Hope-Offset must be a number of bytes", "hope-offset")
        await file.seek(int(offset))
        events = ingest.ingest(
            self.sessions,
            key,
            _parts(file),
            conversation=conversation_name(str(form.get("conversation", ""))),
            document=short_name(
                str(form.get("document", "")) or file.filename or "",
                "",
                MAX_DOCUMENT_NAME,
                field="document",
            ),
            offset_bytes=int(offset),
            learn=request.headers.get("hope-learn", "").lower() != "off",
        )
        first = await anext(events)
        return StreamingResponse(
            _events(first, events),
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
            media_type="text/event-stream",
        )

    async def export(self, request: Request, user: str) -> Response:
        """The session as a file."""
        name = request.path_params["session"]
        key = session_key(f"users/{user}/sessions/{name}", field="session")
        chunks = archive.export(self.sessions, key)
        first = await anext(aiter(chunks))
        return StreamingResponse(
            _behind(first, chunks),
            headers={"content-disposition": f'attachment; filename="{name}.hope"'},
            media_type="application/octet-stream",
        )

    async def import_(self, request: Request, user: str) -> Response:
        """Make a session out of a file that `export` gave."""
        name = request.query_params.get("session", "")
        key = session_key(f"users/{user}/sessions/{name}", field="session")
        kind = request.headers.get("content-type", "").partition(";")[0].strip()
        if kind != "application/octet-stream":
            raise HttpError(
                415,
                "the body must be a session's file (application/octet-stream)",
                code="unsupported_media_type",
            )
        head = await archive.import_session(self.sessions, key, request.stream())
        return JSONResponse(
            {"name": str(head.key), "memory_version": head.version},
            headers={"etag": f'"{head.etag}"'},
        )


def _check_length(request: Request) -> None:
    length = request.headers.get("content-length", "")
    if not length.isdecimal():
        raise HttpError(
            411, "the form needs the header Content-Length", code="content_length_missing"
        )
    if int(length) > MAX_FORM_BYTES:
        raise HttpError(
            413,
            f"the form is longer than {MAX_FORM_BYTES >> 20} MiB; send the document in parts, "
            "or with `hope ingest`",
            code="request_too_large",
        )


async def _parts(file: UploadFile) -> AsyncIterator[bytes | ingest.End]:
    while chunk := await file.read(_CHUNK_BYTES):
        yield chunk
    yield ingest.End()


async def _behind(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk


async def _events(first: IngestEvent, events: AsyncIterator[IngestEvent]) -> AsyncIterator[bytes]:
    yield _event(first)
    try:
        async for event in events:
            yield _event(event)
    except Exception as error:
        yield _named("error", http_error(error).body)


def _event(event: IngestEvent) -> bytes:
    match event:
        case IngestProgress():
            return _named("progress", asdict(event))
        case Ingested():
            return _named("result", asdict(event))
        case _:
            return b": waiting\n\n"


def _named(name: str, content: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(content, ensure_ascii=False)}\n\n".encode()
