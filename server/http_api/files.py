"""Native routes that carry bytes: documents to read, and sessions as files.

POST /v1/sessions/{session}/documents   a form with a file of text, HTML, PDF or Word; events
GET  /v1/sessions/{session}/export      the session as one file
POST /v1/sessions/import?session=NAME   the session that such a file holds
"""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

import hope_documents
from hope_runtime.session.log import MAX_BUDGET
from server.app import archive, ingest
from server.app.events import Ingested, IngestEvent, IngestProgress, Learning
from server.app.names import MAX_DOCUMENT_NAME, conversation_name, session_key, short_name
from server.app.sessions import Sessions
from server.http_api.errors import HttpError, http_error, invalid
from server.http_api.named_events import WAITING, event_stream, named_event
from server.http_api.watching import key_of

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
        key = key_of(request, user)
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
        file = await _as_text(file)
        offset = request.headers.get("hope-offset", "0")
        if not offset.isdecimal():
            raise invalid("Hope-Offset must be a number of bytes", "hope-offset")
        await file.seek(int(offset))
        text = _Text(file.size or 0, int(offset))
        events = ingest.ingest(
            self.sessions,
            key,
            text.parts(file),
            conversation=conversation_name(str(form.get("conversation", ""))),
            document=short_name(
                str(form.get("document", "")) or file.filename or "",
                "",
                MAX_DOCUMENT_NAME,
                field="document",
            ),
            offset_bytes=int(offset),
            learn=request.headers.get("hope-learn", "").lower() != "off",
            budget=_budget(request.headers.get("hope-budget", "")),
        )
        first = await anext(events)
        return event_stream(_events(first, events, text))

    async def export(self, request: Request, user: str) -> Response:
        """The session as a file."""
        key = key_of(request, user)
        chunks = archive.export(self.sessions, key)
        first = await anext(aiter(chunks))
        return StreamingResponse(
            _behind(first, chunks),
            headers={"content-disposition": f'attachment; filename="{key.session}.hope"'},
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


def _budget(given: str) -> float | None:
    """Budget of a document; None when it is not given."""
    if not given:
        return None
    with contextlib.suppress(ValueError):
        if 0 <= (budget := float(given)) <= MAX_BUDGET:
            return budget
    raise invalid(f"Hope-Budget must be a number from 0 to {MAX_BUDGET:g}", "hope-budget")


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


async def _as_text(file: UploadFile) -> UploadFile:
    """The file, or its text where it is a PDF or the like. Raises HttpError."""
    name = file.filename or ""
    suffix = Path(name).suffix.lower()
    head = await file.read(hope_documents.HEAD_BYTES)
    await file.seek(0)
    other, remedy = hope_documents.foreign(head, suffix)
    if other:
        raise HttpError(
            415,
            f"the file is {other}, which this server does not read; {remedy}",
            param="file",
            code="unsupported_media_type",
        )
    if (kind := hope_documents.kind_of(head, suffix)) is hope_documents.Kind.TEXT:
        return file
    data = await file.read()
    try:
        text = await asyncio.to_thread(hope_documents.text_of, data, kind)
    except hope_documents.MissingReaderError as error:
        raise HttpError(501, str(error), "server_error", "file", "reader_missing") from None
    except hope_documents.LargeDocumentError as error:
        raise HttpError(413, str(error), param="file", code="request_too_large") from None
    except hope_documents.DocumentError as error:
        raise HttpError(422, str(error), param="file", code="document_unreadable") from None
    encoded = text.encode()
    return UploadFile(io.BytesIO(encoded), size=len(encoded), filename=name)


class _Text:
    """A document's text on its way: what has been handed to the session, and read there."""

    def __init__(self, total_bytes: int, offset: int) -> None:
        self.total_bytes = total_bytes
        self._begin = offset
        self._waiting = bytearray()

    async def parts(self, file: UploadFile) -> AsyncIterator[bytes | ingest.End]:
        """Pieces of the text from where `file` stands, then its end."""
        while chunk := await file.read(_CHUNK_BYTES):
            self._waiting += chunk
            yield chunk
        yield ingest.End()

    def up_to(self, committed_bytes: int) -> str:
        """The text up to there that was not asked for before. A character that is cut in two comes
        with the rest of it."""
        part = bytes(self._waiting[: max(0, committed_bytes - self._begin)])
        text = part.decode(errors="ignore")
        taken = len(text.encode())
        del self._waiting[:taken]
        self._begin += taken
        return text


async def _behind(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk


async def _events(
    first: IngestEvent, events: AsyncIterator[IngestEvent], text: _Text
) -> AsyncIterator[bytes]:
    yield named_event("opened", {"total_bytes": text.total_bytes})
    yield _event(first, text)
    try:
        async for event in events:
            yield _event(event, text)
    except Exception as error:
        yield named_event("error", http_error(error).body)


def _event(event: IngestEvent, text: _Text) -> bytes:
    match event:
        case IngestProgress():
            more = {
                "total_bytes": text.total_bytes,
                "text": text.up_to(event.committed_bytes),
            }
            return named_event("progress", asdict(event) | more)
        case Ingested():
            return named_event("result", asdict(event))
        case Learning():
            return named_event("learning", asdict(event))
        case _:
            return WAITING
