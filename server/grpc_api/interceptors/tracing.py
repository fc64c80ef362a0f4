"""A span around every call, as part of the caller's trace.

Attributes follow OpenTelemetry's conventions for RPC. The phases of a reply, learning and commits
make spans of their own within it (server/app).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from server.grpc_api.interceptors.base import PROBES, CallInterceptor, Context
from server.grpc_api.interceptors.call_info import CallInfo
from server.telemetry.tracing import OtelTracer

_FAILED = {"INTERNAL", "UNKNOWN", "DATA_LOSS", "UNAVAILABLE", "UNIMPLEMENTED", "DEADLINE_EXCEEDED"}


class TracingInterceptor(CallInterceptor):
    """Makes the spans of calls."""

    def __init__(self, tracer: OtelTracer) -> None:
        self._tracer = tracer.tracer

    def covers(self, path: str) -> bool:
        return not path.startswith(PROBES)

    @asynccontextmanager
    async def around(self, path: str, context: Context) -> AsyncIterator[CallInfo]:
        call = CallInfo(context)
        span = self._start(path, context)
        # Never detached: the call has a context of its own, which ends with it.
        otel_context.attach(trace.set_span_in_context(span))
        error: BaseException | None = None
        try:
            yield call
        except BaseException as ended:
            error = ended
            raise
        finally:
            code = call.code(error)
            span.set_attribute("rpc.grpc.status_code", grpc.StatusCode[code].value[0])
            if call.session is not None:
                span.set_attribute("hope.session", call.session)
            if call.version is not None:
                span.set_attribute("hope.version", call.version)
            if code in _FAILED:
                span.set_status(trace.StatusCode.ERROR)
            span.end()

    def _start(self, path: str, context: Context) -> trace.Span:
        service, _, method = path.lstrip("/").partition("/")
        said = dict(context.invocation_metadata() or ())
        span: trace.Span = self._tracer.start_span(
            path.lstrip("/"),
            context=TraceContextTextMapPropagator().extract(said),
            kind=trace.SpanKind.SERVER,
            attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": method},
        )
        return span
