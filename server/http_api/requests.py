"""Requests before a handler sees them: their caller, their origin, their body.

Pages of other sites can reach a server on loopback, so the `Host` must be one that the server is
called by (a page can rename its own host to this address), no foreign `Origin` may ask for
anything, and bodies must be JSON, which a page cannot send without asking first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from starlette.requests import Request

from server.auth.access import Authenticator, Credentials
from server.auth.caller import set_caller
from server.http_api.errors import HttpError, invalid

MAX_BODY_BYTES = 4 << 20
# A body that is too long is read to its end up to here, so that its sender reads the answer.
_MOST_DISCARDED_BYTES = 64 << 20
# The user of callers without credentials, on loopback.
LOCAL_USER = "local"
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True, slots=True)
class Gate:
    """Decides who may ask. `hosts` are the names that the server is called by; None takes any, for
    servers whose callers need credentials. `origins` are those of other sites that may ask."""

    authenticate: Authenticator
    hosts: Sequence[str] | None
    origins: Sequence[str]

    def check(self, request: Request) -> None:
        """Refuse requests that a web page of somebody else makes. Raises HttpError."""
        host = request.headers.get("host", "").lower()
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if self.hosts is not None and name not in self.hosts:
            raise HttpError(
                403,
                f"this server is not called {name[:80]!r}; add the name with --http-hosts",
                "permission_error",
                code="foreign_host",
            )
        origin = request.headers.get("origin")
        if origin is None or request.method in _SAFE_METHODS or origin in self.origins:
            return
        if origin.lower() != f"{request.url.scheme}://{host}":
            raise HttpError(
                403,
                "pages of other sites may not ask this server; allow them with --http-cors-origins",
                "permission_error",
                code="foreign_origin",
            )

    def admit(self, request: Request) -> str:
        """Set the caller of the present call; returns the user. Raises UnauthenticatedError."""
        found = request.headers.getlist("authorization")
        for name in ("x-api-key", "api-key"):
            if not found and (key := request.headers.get(name)):
                found = [f"Bearer {key}"]
        caller = self.authenticate(Credentials(tuple(found)))
        set_caller(caller)
        return caller.user or LOCAL_USER


async def read_json(request: Request) -> bytes:
    """The body of a request. Raises HttpError unless it is JSON of bearable length."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HttpError(
            415,
            "the body must be JSON, with the header 'Content-Type: application/json'",
            code="unsupported_media_type",
        )
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size <= MAX_BODY_BYTES:
            parts.append(part)
        elif size > _MOST_DISCARDED_BYTES:
            break
    if size > MAX_BODY_BYTES:
        raise HttpError(
            413,
            f"the body is longer than {MAX_BODY_BYTES >> 20} MiB; send less, or ingest it as a "
            "document",
            code="request_too_large",
        )
    return b"".join(parts)


def json_object(data: bytes) -> dict[str, Any]:
    """The JSON object that a body holds. Raises HttpError."""
    try:
        found = json.loads(data)
        data.decode()
        json.dumps(found, ensure_ascii=False).encode()  # lone surrogates are no text
    except (ValueError, RecursionError) as error:
        raise invalid(f"the body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise invalid("the body must be a JSON object")
    return cast(dict[str, Any], found)
