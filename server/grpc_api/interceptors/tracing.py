"""A span around every call, as part of the caller's trace, and spans for the phases of a reply.

Attributes follow OpenTelemetry's conventions for RPC. Phases are known when a reply has ended:
queue, prefill and decode follow each other from its beginning. Learning and commits make spans of
their own (server/app/sessions.py).
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc
from grpc import aio
from hope.v1 import inference_pb2 as pb
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from server.grpc_api.interceptors.base import wrapped
from server.grpc_api.interceptors.call_info import Seen
from server.grpc_api.interceptors.request_log import SILENT
from server.telemetry.tracing import OtelTracer, attributes

if TYPE_CHECKING:
    _Interceptor = aio.ServerInterceptor[Any, Any]
else:
    _Interceptor = aio.ServerInterceptor

Context = aio.ServicerContext[Any, Any]
_FAILED = {"INTERNAL", "UNKNOWN", "DATA_LOSS", "UNAVAILABLE", "UNIMPLEMENTED", "DEADLINE_EXCEEDED"}


class TracingInterceptor(_Interceptor):
    """Makes the spans of calls."""

    def __init__(self, tracer: OtelTracer) -> None:
        self._tracer = tracer.tracer

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        path = handler_call_details.method
        if handler is None or path.startswith(SILENT):
            return handler

        def single(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
            async def handle(request: Any, context: Context) -> Any:
                with _Span(self._tracer, path, context) as seen:
                    response = await call(seen.reads(request), context)
                    seen.saw(response)
                    return response

            return handle

        def streaming(
            call: Callable[..., AsyncIterator[Any]],
        ) -> Callable[..., AsyncIterator[Any]]:
            async def handle(request: Any, context: Context) -> AsyncIterator[Any]:
                with _Span(self._tracer, path, context) as seen:
                    async for response in call(seen.reads(request), context):
                        seen.saw(response)
                        yield response

            return handle

        return wrapped(handler, single, streaming)


class _Span:
    """The span of one call."""

    def __init__(self, tracer: trace.Tracer, path: str, context: Context) -> None:
        self._tracer, self._seen = tracer, Seen(context)
        self._started = time.time_ns()
        service, _, method = path.lstrip("/").partition("/")
        said = dict(context.invocation_metadata() or ())
        self._span = tracer.start_span(
            path.lstrip("/"),
            context=TraceContextTextMapPropagator().extract(said),
            kind=trace.SpanKind.SERVER,
            attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": method},
            start_time=self._started,
        )

    def __enter__(self) -> Seen:
        # Never detached: the call has a context of its own, which ends with it.
        otel_context.attach(trace.set_span_in_context(self._span))
        return self._seen

    def __exit__(self, _: object, error: BaseException | None, where: object) -> None:
        seen, span = self._seen, self._span
        code = seen.code(error)
        span.set_attribute("rpc.grpc.status_code", grpc.StatusCode[code].value[0])
        if seen.session is not None:
            span.set_attribute("hope.session", seen.session)
        if seen.version is not None:
            span.set_attribute("hope.version", seen.version)
        if code in _FAILED:
            span.set_status(trace.StatusCode.ERROR)
        if isinstance(seen.result, pb.GenerateResult) and not seen.result.replayed:
            self._phases(seen.result.usage)
        span.end()

    def _phases(self, usage: pb.Usage) -> None:
        within, at = trace.set_span_in_context(self._span), self._started
        figures = {
            "queue": {},
            "prefill": {"tokens": usage.input_tokens},
            "decode": {"tokens": usage.output_tokens},
        }
        for name in figures:
            ends = at + getattr(usage, f"{name}_time").ToNanoseconds()
            part = self._tracer.start_span(
                name, context=within, start_time=at, attributes=attributes(figures[name])
            )
            part.end(ends)
            at = ends
