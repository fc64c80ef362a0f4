"""A line of the log for every request: method, outcome, seconds, the session's tag, its version.

The outermost interceptor, so that it sees what callers see.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc
from grpc import aio

from server.grpc_api.interceptors.base import wrapped
from server.grpc_api.interceptors.call_info import Seen
from server.telemetry.logs import FIELDS, new_number, request_number

if TYPE_CHECKING:
    _Interceptor = aio.ServerInterceptor[Any, Any]
else:
    _Interceptor = aio.ServerInterceptor

Context = aio.ServicerContext[Any, Any]
_log = logging.getLogger("server.requests")
# Probes of orchestrators would drown everything else.
SILENT = ("/grpc.health.v1.Health/", "/grpc.reflection.")


class RequestLogInterceptor(_Interceptor):
    """Logs every call when it ended."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        path = handler_call_details.method
        if handler is None or path.startswith(SILENT):
            return handler
        method = path.rpartition("/")[2]
        return wrapped(
            handler, lambda call: _single(call, method), lambda call: _streaming(call, method)
        )


def _single(call: Callable[..., Awaitable[Any]], method: str) -> Callable[..., Awaitable[Any]]:
    async def handle(request: Any, context: Context) -> Any:
        with _Line(method, context) as seen:
            response = await call(seen.reads(request), context)
            seen.saw(response)
            return response

    return handle


def _streaming(
    call: Callable[..., AsyncIterator[Any]], method: str
) -> Callable[..., AsyncIterator[Any]]:
    async def handle(request: Any, context: Context) -> AsyncIterator[Any]:
        with _Line(method, context) as seen:
            async for response in call(seen.reads(request), context):
                seen.saw(response)
                yield response

    return handle


class _Line:
    """One request; written when its block ends."""

    def __init__(self, method: str, context: Context) -> None:
        self._method, self._seen = method, Seen(context)
        self._started = time.monotonic()

    def __enter__(self) -> Seen:
        request_number.set(new_number())
        return self._seen

    def __exit__(self, _: object, error: BaseException | None, trace: object) -> None:
        seen = self._seen
        fields = {
            "method": self._method,
            "code": seen.code(error),
            "seconds": round(time.monotonic() - self._started, 4),
        }
        if seen.session is not None:
            fields["session"] = seen.session
        if seen.version is not None:
            fields["version"] = seen.version
        _log.info("%s %s", self._method, fields["code"], extra={FIELDS: fields})
