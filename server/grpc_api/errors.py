"""Errors on the wire: google.rpc.Status with one ErrorInfo and the detail that helps (AIP-193).

One interceptor translates the errors of all handlers, so handlers raise typed errors and know no
status codes. An error that error_codes.py does not know is a bug: it is logged in full,
and the caller is told only the reference of the log entry.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import aio
from grpc_status import rpc_status

from hope_runtime import errors as runtime
from server.app.quotas import QuotaExceededError
from server.app.residency import JobRunningError
from server.grpc_api.error_codes import INTERNAL, ErrorCode, code_of
from server.grpc_api.interceptors.base import CallInterceptor, Context, Observer
from server.store import base as store
from server.telemetry.logs import new_number, request_number

DOMAIN = "hope.dev"
_log = logging.getLogger(__name__)


def to_status(error: Exception) -> status_pb2.Status:
    """The status of an error: code, reason, message, and the details that help."""
    code = code_of(error)
    if code is not INTERNAL:
        return _status(code, _sentence(str(error) or code.meaning), error)
    reference = request_number.get() or new_number()
    _log.error("unexpected error %s", reference, exc_info=error)
    return _status(code, f"The server failed; its log has the cause under {reference}.", error)


def _sentence(message: str) -> str:
    """The message as a sentence; a name or an identifier that it begins with stays as it is."""
    start, *_ = message.split(maxsplit=1)
    if start.isalpha() and start.islower():
        message = message[0].upper() + message[1:]
    return message if message.endswith((".", "!", "?")) else f"{message}."


def _status(code: ErrorCode, message: str, error: Exception) -> status_pb2.Status:
    retry_seconds = code.retry_seconds
    info = error_details_pb2.ErrorInfo(reason=code.reason, domain=DOMAIN)
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
        info.metadata["owner"] = error.holder
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
    return status_pb2.Status(code=code.status, message=message, details=packed)


async def _abort(context: Context, error: Exception) -> NoReturn:
    status = rpc_status.to_status(to_status(error))
    await context.abort(status.code, status.details, status.trailing_metadata)
    raise AssertionError("abort does not return")


class ErrorInterceptor(CallInterceptor):
    """Translates the exceptions of every handler into rich statuses."""

    @asynccontextmanager
    async def around(self, path: str, context: Context) -> AsyncIterator[Observer]:
        try:
            yield Observer()
        except (asyncio.CancelledError, aio.AbortError, GeneratorExit):
            raise
        except Exception as error:
            await _abort(context, error)
