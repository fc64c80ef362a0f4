"""Errors on the wire: google.rpc.Status with one ErrorInfo and the detail that helps (AIP-193).

One interceptor translates whatever a handler raises, so handlers raise typed errors and never
speak of status codes. What is not known here is a bug: it is logged in full and tells the caller
nothing but a reference.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc import aio
from grpc_status import rpc_status

from hope_runtime import errors as runtime
from server.app import turns
from server.app.documents import DocumentDiffersError
from server.app.jobs import JobCancelledError
from server.app.quotas import QuotaExceededError
from server.app.residency import JobRunningError
from server.app.sessions import DrainingError
from server.auth.tokens import UnauthenticatedError
from server.grpc_api.inference import StalledStreamError
from server.grpc_api.interceptors.base import wrapped
from server.store import base as store
from server.telemetry.logs import new_number, request_number

DOMAIN = "hope.dev"
_log = logging.getLogger(__name__)

# Most specific first. Code, reason, and seconds after which trying again makes sense.
_TABLE: tuple[tuple[type[Exception], int, str, float | None], ...] = (
    (UnauthenticatedError, code_pb2.UNAUTHENTICATED, "UNAUTHENTICATED", None),
    (runtime.WindowOverflowError, code_pb2.INVALID_ARGUMENT, "WINDOW_OVERFLOW", None),
    (DocumentDiffersError, code_pb2.FAILED_PRECONDITION, "DOCUMENT_DIFFERS", None),
    (runtime.InvalidRequestError, code_pb2.INVALID_ARGUMENT, "INVALID_REQUEST", None),
    (runtime.FingerprintMismatchError, code_pb2.FAILED_PRECONDITION, "OTHER_BASE_MODEL", None),
    (runtime.StateVersionError, code_pb2.FAILED_PRECONDITION, "UNKNOWN_STATE_FORMAT", None),
    (runtime.DivergedStateError, code_pb2.FAILED_PRECONDITION, "MEMORY_WOULD_DIVERGE", None),
    (runtime.CorruptStateError, code_pb2.DATA_LOSS, "CORRUPT_STATE", None),
    (runtime.UnsupportedMemoryError, code_pb2.FAILED_PRECONDITION, "UNSUPPORTED_MEMORY", None),
    (runtime.NotFiniteError, code_pb2.INTERNAL, "NOT_FINITE", None),
    (runtime.EngineLostError, code_pb2.UNAVAILABLE, "ENGINE_LOST", 5.0),
    (runtime.CancelledTurnError, code_pb2.CANCELLED, "CANCELLED", None),
    (store.VersionNotFoundError, code_pb2.NOT_FOUND, "VERSION_NOT_FOUND", None),
    (store.SnapshotNotFoundError, code_pb2.NOT_FOUND, "SNAPSHOT_NOT_FOUND", None),
    (store.NotFoundError, code_pb2.NOT_FOUND, "SESSION_NOT_FOUND", None),
    (store.SnapshotExistsError, code_pb2.ALREADY_EXISTS, "SNAPSHOT_EXISTS", None),
    (store.AlreadyExistsError, code_pb2.ALREADY_EXISTS, "SESSION_EXISTS", None),
    (store.LeaseHeldError, code_pb2.UNAVAILABLE, "SESSION_OWNED_ELSEWHERE", 1.0),
    (store.LeaseLostError, code_pb2.ABORTED, "SESSION_LOST", 1.0),
    (store.StaleRevisionError, code_pb2.ABORTED, "STALE_ETAG", None),
    (store.CorruptBlobError, code_pb2.DATA_LOSS, "CORRUPT_STATE", None),
    (store.CorruptStoreError, code_pb2.DATA_LOSS, "CORRUPT_STORE", None),
    (store.StoreVersionError, code_pb2.FAILED_PRECONDITION, "UNKNOWN_STORE_FORMAT", None),
    (store.StoreFullError, code_pb2.RESOURCE_EXHAUSTED, "STORE_FULL", 60.0),
    (store.StoreUnavailableError, code_pb2.UNAVAILABLE, "STORE_UNAVAILABLE", 1.0),
    (QuotaExceededError, code_pb2.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", None),
    (JobRunningError, code_pb2.UNAVAILABLE, "JOB_RUNNING", None),
    (JobCancelledError, code_pb2.ABORTED, "JOB_CANCELLED", None),
    (StalledStreamError, code_pb2.ABORTED, "STALLED_STREAM", None),
    (turns.BrokenStreamError, code_pb2.ABORTED, "BROKEN_STREAM", 0.0),
    (DrainingError, code_pb2.UNAVAILABLE, "DRAINING", 5.0),
    (NotImplementedError, code_pb2.UNIMPLEMENTED, "UNIMPLEMENTED", None),
)


def to_status(error: Exception) -> status_pb2.Status:
    """The status that tells a caller what happened and what to do."""
    for kind, code, reason, retry_seconds in _TABLE:
        if isinstance(error, kind):
            message = str(error) or "This server does not offer the method yet."
            return _status(code, _sentence(message), reason, error, retry_seconds)
    reference = request_number.get() or new_number()
    _log.error("unexpected error %s", reference, exc_info=error)
    message = f"The server failed; its log has the reason under {reference}."
    return _status(code_pb2.INTERNAL, message, "INTERNAL", error, None)


def _sentence(message: str) -> str:
    """The message as a sentence; a resource name that it begins with stays as it is."""
    start, *_ = message.split(maxsplit=1)
    if "/" not in start:
        message = message[0].upper() + message[1:]
    return message if message.endswith((".", "!", "?")) else f"{message}."


def _status(
    code: int, message: str, reason: str, error: Exception, retry_seconds: float | None
) -> status_pb2.Status:
    info = error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN)
    details: list[Message] = [info]
    if isinstance(error, runtime.InvalidRequestError) and error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=message
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, store.NotFoundError | store.AlreadyExistsError):
        of_snapshot = store.SnapshotExistsError | store.SnapshotNotFoundError
        kind = "Snapshot" if isinstance(error, of_snapshot) else "Session"
        details.append(error_details_pb2.ResourceInfo(resource_type=f"hope.dev/{kind}"))
    if isinstance(error, store.LeaseHeldError):
        info.metadata["owner"] = error.owner
        retry_seconds = error.remaining_seconds
    if isinstance(error, QuotaExceededError):
        exceeded = error_details_pb2.QuotaFailure.Violation(
            subject=error.subject, description=message
        )
        details.append(error_details_pb2.QuotaFailure(violations=[exceeded]))
        retry_seconds = error.retry_seconds
    if isinstance(error, JobRunningError):
        retry_seconds = error.retry_seconds
    if retry_seconds is not None:
        delay = Duration()
        delay.FromMilliseconds(int(retry_seconds * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = []
    for detail in details:
        box = any_pb2.Any()
        box.Pack(detail)
        packed.append(box)
    return status_pb2.Status(code=code, message=message, details=packed)


async def _abort(context: aio.ServicerContext[Any, Any], error: Exception) -> NoReturn:
    status = rpc_status.to_status(to_status(error))
    await context.abort(status.code, status.details, status.trailing_metadata)
    raise AssertionError("abort does not return")


if TYPE_CHECKING:
    _Interceptor = aio.ServerInterceptor[Any, Any]
else:
    _Interceptor = aio.ServerInterceptor


class ErrorInterceptor(_Interceptor):
    """Turns the exceptions of every handler into rich statuses."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        return wrapped(handler, _single, _streaming)


def _single(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def handle(request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await call(request, context)
        except (asyncio.CancelledError, aio.AbortError):
            raise
        except Exception as error:
            await _abort(context, error)

    return handle


def _streaming(call: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
    async def handle(request: Any, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        try:
            async for response in call(request, context):
                yield response
        except (asyncio.CancelledError, aio.AbortError, GeneratorExit):
            raise
        except Exception as error:
            await _abort(context, error)

    return handle
