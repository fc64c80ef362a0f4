"""Native routes under /v1/sessions: the methods of the API, as JSON of its messages.

A route is a line of a table: HTTP method, path, method of the API, and the field that takes the
name in the path. Requests and answers are the protos' messages in their JSON form, so this module
knows none of them; the composition root hands in what answers them. Methods that stream become
server-sent events, named by the message's part.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import Response

from server.http_api.errors import http_error, invalid
from server.http_api.named_events import event_stream, named_event
from server.http_api.requests import json_object, read_json

SESSIONS = "/v1/sessions"
_ONE = SESSIONS + "/{session}"


@dataclass(frozen=True, slots=True)
class Method:
    """A method of the API: the class of its request, what answers it, and whether that streams."""

    request: type[Message]
    call: Callable[[Any], Any]
    streams: bool


@dataclass(frozen=True, slots=True)
class Native:
    """A route. `named` is the field that takes the full name that the path gives, `name` its form
    behind users/USER; `renamed` are query parameters under other names than their fields'."""

    verb: str
    path: str
    method: str
    named: str
    name: str = "/sessions/{session}"
    renamed: Mapping[str, str] | None = None


ROUTES = (
    Native("GET", SESSIONS, "ListSessions", "parent", ""),
    Native("POST", SESSIONS, "CreateSession", "parent", ""),
    Native("GET", _ONE, "GetSession", "name"),
    Native("PATCH", _ONE, "UpdateSession", "session.name"),
    Native("DELETE", _ONE, "DeleteSession", "name"),
    Native("POST", f"{_ONE}/fork", "ForkSession", "name"),
    Native("POST", f"{_ONE}/rollback", "RollbackSession", "name"),
    Native("POST", f"{_ONE}/reset", "ResetLevels", "name"),
    Native("POST", f"{_ONE}/consolidate", "Consolidate", "name"),
    Native("POST", f"{_ONE}/end_conversation", "EndConversation", "name"),
    Native("POST", f"{_ONE}/score", "Score", "session"),
    Native("POST", f"{_ONE}/migrate", "MigrateSession", "name"),
    Native("POST", f"{_ONE}/cancel_job", "CancelJob", "name"),
    Native("GET", f"{_ONE}/consolidations", "ListConsolidations", "parent"),
    Native("GET", f"{_ONE}/statements", "ListStatements", "parent"),
    Native("POST", f"{_ONE}/forget", "ForgetStatements", "name"),
    Native(
        "GET",
        f"{_ONE}/diff",
        "DiffVersions",
        "name",
        renamed={"from": "from_version", "to": "to_version"},
    ),
    Native("GET", f"{_ONE}/snapshots", "ListSnapshots", "parent"),
    Native("POST", f"{_ONE}/snapshots", "CreateSnapshot", "parent"),
    Native(
        "DELETE",
        _ONE + "/snapshots/{snapshot}",
        "DeleteSnapshot",
        "name",
        "/sessions/{session}/snapshots/{snapshot}",
    ),
    Native("DELETE", _ONE + "/documents/{document:path}", "ForgetDocument", "name"),
)


def handler(route: Native, method: Method) -> Callable[[Request, str], Awaitable[Response]]:
    """The handler of a route."""

    async def handle(request: Request, user: str) -> Response:
        message = method.request()
        try:
            json_format.ParseDict(await _fields(route, request, user, message), message)
        except json_format.ParseError as error:
            raise invalid(f"the request has a wrong field: {error}") from None
        if not method.streams:
            return _answer(await method.call(message))
        answers = aiter(method.call(message))
        # What refuses the call does so before the first byte.
        first = await anext(answers)
        return event_stream(_events(first, answers))

    return handle


async def _fields(route: Native, request: Request, user: str, message: Message) -> dict[str, Any]:
    """The fields of a request's message: its body or its query, and the name in its path."""
    fields: dict[str, Any]
    if route.verb in ("POST", "PATCH"):
        fields = json_object(await read_json(request))
    else:
        renamed = route.renamed or {}
        fields = {renamed.get(name, name): value for name, value in request.query_params.items()}
    if "document" in request.path_params:
        fields["document"] = request.path_params["document"]
    name = f"users/{user}{route.name}".format(**request.path_params)
    etag = request.headers.get("if-match", "").strip('"')
    if route.named == "session.name":
        # Its only field that can be updated.
        fields = {"session": {**fields, "name": name}, "update_mask": "displayName"}
        if etag:
            fields["session"]["etag"] = etag
        return fields
    fields[route.named] = name
    if etag and "etag" in message.DESCRIPTOR.fields_by_name:
        fields["etag"] = etag
    return fields


def _answer(message: Message) -> Response:
    session = getattr(message, "session", None)
    etag = getattr(session, "etag", "")
    return Response(
        json.dumps(_json(message), ensure_ascii=False).encode(),
        headers={"etag": f'"{etag}"'} if etag else None,
        media_type="application/json",
    )


async def _events(first: Message, answers: AsyncIterator[Message]) -> AsyncIterator[bytes]:
    yield _event(first)
    try:
        async for message in answers:
            yield _event(message)
    except Exception as error:
        yield named_event("error", http_error(error).body)


def _event(message: Message) -> bytes:
    (part,) = message.DESCRIPTOR.oneofs
    name = message.WhichOneof(part.name)
    assert name is not None, "a streamed message has its part"
    return named_event(name, _json(getattr(message, name)))


def _json(message: Message) -> dict[str, Any]:
    found: dict[str, Any] = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return found
