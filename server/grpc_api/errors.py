"""Errors on the wire: google.rpc.Status with one ErrorInfo and the detail that helps (AIP-193).

One interceptor translates the errors of all handlers, so handlers raise typed errors and know no
status codes. What an error means is in server/app/error_codes.py and failures.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import aio
from grpc_status import rpc_status

from server.app.failures import failure_of
from server.app.quotas import QuotaExceededError
from server.grpc_api.interceptors.base import CallInterceptor, Context, Observer
from server.store import base as store

DOMAIN = "hope.dev"


def to_status(error: Exception) -> status_pb2.Status:
    """The status of an error: code, reason, message, and the details that help."""
    failure = failure_of(error)
    info = error_details_pb2.ErrorInfo(reason=failure.code.reason, domain=DOMAIN)
    details: list[Message] = [info]
    if failure.field:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=failure.field, description=failure.message
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, store.NotFoundError | store.AlreadyExistsError):
        of_snapshot = store.SnapshotExistsError | store.SnapshotNotFoundError
        kind = "Snapshot" if isinstance(error, of_snapshot) else "Session"
        details.append(error_details_pb2.ResourceInfo(resource_type=f"hope.dev/{kind}"))
    if isinstance(error, store.LeaseHeldError):
        info.metadata["owner"] = error.holder
    if isinstance(error, QuotaExceededError):
        exceeded = error_details_pb2.QuotaFailure.Violation(
            subject=error.subject, description=failure.message
        )
        details.append(error_details_pb2.QuotaFailure(violations=[exceeded]))
    if failure.retry_seconds is not None:
        delay = Duration()
        delay.FromMilliseconds(int(failure.retry_seconds * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = []
    for detail in details:
        box = any_pb2.Any()
        box.Pack(detail)
        packed.append(box)
    return status_pb2.Status(code=failure.code.status, message=failure.message, details=packed)


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
