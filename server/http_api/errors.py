"""Errors over HTTP: `{"error": {message, type, param, code}}` on every route.

Statuses follow the codes and reasons of server/app/error_codes.py. Headers tell the official
clients whether to try again, and when.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from google.rpc import code_pb2
from starlette.responses import Response

from server.app.failures import Failure, failure_of, sentence

_STATUS = {
    code_pb2.INVALID_ARGUMENT: (400, "invalid_request_error"),
    code_pb2.UNAUTHENTICATED: (401, "authentication_error"),
    code_pb2.NOT_FOUND: (404, "not_found_error"),
    code_pb2.ALREADY_EXISTS: (409, "conflict_error"),
    code_pb2.ABORTED: (409, "conflict_error"),
    code_pb2.FAILED_PRECONDITION: (422, "failed_precondition_error"),
    code_pb2.RESOURCE_EXHAUSTED: (429, "rate_limit_error"),
    code_pb2.UNAVAILABLE: (503, "service_unavailable_error"),
    code_pb2.CANCELLED: (503, "service_unavailable_error"),
    code_pb2.UNIMPLEMENTED: (501, "server_error"),
    code_pb2.INTERNAL: (500, "server_error"),
    code_pb2.DATA_LOSS: (500, "server_error"),
}
# Reasons whose status is not that of their code.
_STATUS_OF_REASON = {
    "STALE_ETAG": (412, "failed_precondition_error"),
    "SESSION_LOST": (503, "service_unavailable_error"),
}
_CODES = {"WINDOW_OVERFLOW": "context_length_exceeded", "UNAUTHENTICATED": "invalid_api_key"}
NOT_AGAIN = {"x-should-retry": "false"}


@dataclass(eq=False)
class HttpError(Exception):
    """A request that is refused. `message` is in the form of exceptions' texts; `param` names the
    offending part of the request."""

    status: int
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def body(self) -> dict[str, Any]:
        """The error object."""
        return {
            "error": {
                "message": sentence(self.message),
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> Response:
        """The error as a response."""
        return Response(
            json.dumps(self.body, ensure_ascii=False).encode(),
            self.status,
            self.headers,
            "application/json",
        )


def invalid(message: str, param: str | None = None) -> HttpError:
    """A request whose part `param` cannot be answered as it stands."""
    return HttpError(400, message, param=param, code="invalid_request")


def http_error(error: Exception) -> HttpError:
    """An error of the application, or one that is HTTP's already, as a refusal."""
    return error if isinstance(error, HttpError) else _translated(failure_of(error))


def _translated(failure: Failure) -> HttpError:
    reason = failure.code.reason
    status, kind = _STATUS_OF_REASON.get(reason, _STATUS[failure.code.status])
    code = _CODES.get(reason, reason.lower())
    headers = {}
    if failure.retry_seconds is not None and status in (429, 503):
        headers = {
            "retry-after": str(max(1, math.ceil(failure.retry_seconds))),
            "retry-after-ms": str(math.ceil(failure.retry_seconds * 1000)),
        }
    elif status == 503:
        headers = {"retry-after": "1"}
    elif status == 429:
        code, headers = "insufficient_quota", NOT_AGAIN
    elif status in (409, 500):
        headers = NOT_AGAIN
    if status == 401:
        headers = {"www-authenticate": "Bearer"}
    # Fields of gRPC's nested messages stand at the top here.
    message = failure.message.replace("sampling.", "").replace("Sampling.", "")
    param = failure.field.removeprefix("sampling.").removeprefix("start.") or None
    return HttpError(status, message, kind, param, code, headers)
