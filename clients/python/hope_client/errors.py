"""Typed errors, made from the status of a gRPC call and its google.rpc details.

Knows codes and details; whether to try again is decided in `transport.py`, what
to tell a person at a terminal in `cli/`.
"""

from __future__ import annotations

from typing import ClassVar, cast

import grpc
from google.protobuf.any_pb2 import Any
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status


class HopeClientError(Exception):
    """A call that failed. `str(error)` is one line in the server's words.

    Attributes:
        code: canonical status code.
        reason: ErrorInfo.reason, an UPPER_SNAKE_CASE constant; empty if hope did not say.
        field: path of the request field that is to blame; empty if none is.
        retry_after_seconds: how long the server asks to wait; None if it does not say.
    """

    default_code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode | None = None,
        reason: str = "",
        field: str = "",
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code or self.default_code
        self.reason = reason
        self.field = field
        self.retry_after_seconds = retry_after_seconds


class ClientClosedError(RuntimeError):
    """The client was closed before, or while, it was asked to do this."""

    def __init__(self) -> None:
        super().__init__("the client is closed; create a new one")


class ClientForkedError(RuntimeError):
    """The client belongs to the process from which this one was forked, or gRPC cannot be used in
    this one because a client of its parent was in use at the fork."""


class CancelledError(HopeClientError):
    """The server, or something on the way, cancelled the call."""

    default_code = grpc.StatusCode.CANCELLED


class UnknownError(HopeClientError):
    """A failure that carries no usable code."""

    default_code = grpc.StatusCode.UNKNOWN


class InvalidRequestError(HopeClientError):
    """The request can never succeed as it is; `field` names the culprit."""

    default_code = grpc.StatusCode.INVALID_ARGUMENT


class DeadlineExceededError(HopeClientError):
    """The time allowed for the call ran out."""

    default_code = grpc.StatusCode.DEADLINE_EXCEEDED


class NotFoundError(HopeClientError):
    """No such session, or not yours."""

    default_code = grpc.StatusCode.NOT_FOUND


class AlreadyExistsError(HopeClientError):
    """The name is taken."""

    default_code = grpc.StatusCode.ALREADY_EXISTS


class PermissionDeniedError(HopeClientError):
    """The caller is known but not allowed."""

    default_code = grpc.StatusCode.PERMISSION_DENIED


class UnauthenticatedError(HopeClientError):
    """The caller did not say, or prove, who it is."""

    default_code = grpc.StatusCode.UNAUTHENTICATED


class ResourceExhaustedError(HopeClientError):
    """A quota or the server's capacity is used up; see `retry_after_seconds`."""

    default_code = grpc.StatusCode.RESOURCE_EXHAUSTED


class FailedPreconditionError(HopeClientError):
    """The session is not in a state that allows this."""

    default_code = grpc.StatusCode.FAILED_PRECONDITION


class AbortedError(HopeClientError):
    """Someone else changed the session meanwhile; read it again."""

    default_code = grpc.StatusCode.ABORTED


class OutOfRangeError(HopeClientError):
    """An offset or a version lies outside of what there is."""

    default_code = grpc.StatusCode.OUT_OF_RANGE


class UnimplementedError(HopeClientError):
    """This server does not offer the method."""

    default_code = grpc.StatusCode.UNIMPLEMENTED


class InternalError(HopeClientError):
    """A fault of the server."""

    default_code = grpc.StatusCode.INTERNAL


class UnavailableError(HopeClientError):
    """No server could be reached, or it cannot serve right now."""

    default_code = grpc.StatusCode.UNAVAILABLE


class DataLossError(HopeClientError):
    """Bytes that were promised to be kept are gone."""

    default_code = grpc.StatusCode.DATA_LOSS


_BY_CODE = {kind.default_code: kind for kind in HopeClientError.__subclasses__()}


def from_rpc_error(error: grpc.aio.AioRpcError) -> HopeClientError:
    """The typed error for a failed call, with what its details say."""
    kind = _BY_CODE.get(error.code(), UnknownError)
    reason, field = "", ""
    retry_after_seconds: float | None = None
    for detail in _details(error):
        info = error_details_pb2.ErrorInfo()
        bad_request = error_details_pb2.BadRequest()
        retry_info = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(bad_request) and bad_request.field_violations:
            field = bad_request.field_violations[0].field
        elif detail.Unpack(retry_info):
            delay = retry_info.retry_delay
            retry_after_seconds = delay.seconds + delay.nanos / 1e9
    return kind(
        _one_line(error.details()) or error.code().name,
        code=error.code(),
        reason=reason,
        field=field,
        retry_after_seconds=retry_after_seconds,
    )


def _details(error: grpc.aio.AioRpcError) -> list[Any]:
    try:
        status: status_pb2.Status | None = rpc_status.from_call(cast(grpc.Call, error))
    except ValueError:
        # A proxy rewrote the status without its details: they describe another error.
        return []
    return list(status.details) if status else []


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())
