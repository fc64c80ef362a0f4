"""Measures requests from outside: what a client sees of a reply, and how each request ended.

One interceptor around all others, so handlers know nothing of metrics. It reads what responses say
of themselves (usage, progress) and the clock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc
from grpc import aio
from hope.v1 import inference_pb2 as pb

from server.telemetry.logs import session_tag
from server.telemetry.metrics import Metrics

if TYPE_CHECKING:
    _Interceptor = aio.ServerInterceptor[Any, Any]
else:
    _Interceptor = aio.ServerInterceptor

Context = aio.ServicerContext[Any, Any]
_SERVICE = "/hope.v1.InferenceService/"
_ROLLBACK = "/hope.v1.SessionService/RollbackSession"
_FINISHED = {
    pb.FINISH_REASON_STOP: "stop",
    pb.FINISH_REASON_LENGTH: "length",
    pb.FINISH_REASON_STOP_STRING: "stop_string",
}
_FAILED = {
    code.value[0]
    for code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS)
}


class MeasuringInterceptor(_Interceptor):
    """Adds every request to `metrics`. Comes before the interceptor that translates errors."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None:
            return None
        codec = (handler.request_deserializer, handler.response_serializer)
        match method.removeprefix(_SERVICE):
            case "Generate":
                call = self._generate(handler.unary_stream)
                return grpc.unary_stream_rpc_method_handler(call, *codec)
            case "Ingest":
                call = self._ingest(handler.stream_stream)
                return grpc.stream_stream_rpc_method_handler(call, *codec)
            case "Score":
                call = self._score(handler.unary_unary)
                return grpc.unary_unary_rpc_method_handler(call, *codec)
        if method == _ROLLBACK:
            call = self._rollback(handler.unary_unary)
            return grpc.unary_unary_rpc_method_handler(call, *codec)
        return handler

    def _generate(self, call: Callable[..., AsyncIterator[Any]]) -> Callable[..., Any]:
        async def measured(request: Any, context: Context) -> AsyncIterator[Any]:
            reply = ReplyClock(self._metrics, request.session)
            with _Outcome(self._metrics, "generate", context):
                async for response in call(request, context):
                    reply.saw(response)
                    yield response

        return measured

    def _ingest(self, call: Callable[..., AsyncIterator[Any]]) -> Callable[..., Any]:
        async def measured(requests: Any, context: Context) -> AsyncIterator[Any]:
            read = 0  # progress counts from the call's start
            with _Outcome(self._metrics, "ingest", context):
                async for response in call(requests, context):
                    if response.WhichOneof("event") == "progress":
                        self._metrics.ingested_tokens.inc(response.progress.tokens - read)
                        read = response.progress.tokens
                    yield response

        return measured

    def _score(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
        async def measured(request: Any, context: Context) -> Any:
            with _Outcome(self._metrics, "score", context):
                return await call(request, context)

        return measured

    def _rollback(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
        async def measured(request: Any, context: Context) -> Any:
            response = await call(request, context)
            self._metrics.rollbacks.inc()
            return response

        return measured


class _Outcome:
    """Counts how the request in its block ended."""

    def __init__(self, metrics: Metrics, kind: str, context: Context) -> None:
        self._metrics, self._kind, self._context = metrics, kind, context

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, trace: object) -> None:
        self._metrics.requests.labels(self._kind, self._ended(error)).inc()

    def _ended(self, error: BaseException | None) -> str:
        if error is None:
            return "ok"
        # A client that goes away closes the generator or cancels the call.
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            return "cancelled"
        code: Any = self._context.code()
        return "failed" if code in _FAILED or not code else "refused"


class ReplyClock:
    """Measures one reply by what it says and when."""

    def __init__(self, metrics: Metrics, session: str) -> None:
        self._metrics = metrics
        # Leads from a slow bucket to the lines of the log about that session.
        self._exemplar = {"session": session_tag(session)}
        self._started = self._last = time.monotonic()
        self._begun = False
        # Between two tokens: kept until it is known that the reply is not a stored one.
        self._gaps: list[tuple[float, int]] = []

    def saw(self, response: pb.GenerateResponse) -> None:
        """Takes the next event of the reply."""
        match response.WhichOneof("event"):
            case "delta" if response.delta.tokens:
                self._text(response.delta.tokens)
            case "result" if not response.result.replayed:
                self._result(response.result)

    def _text(self, tokens: int) -> None:
        now = time.monotonic()
        self._gaps.append((now - self._last, tokens))
        self._last = now

    def _result(self, result: pb.GenerateResult) -> None:
        metrics, usage = self._metrics, result.usage
        if self._gaps:
            first, _ = self._gaps[0]
            metrics.first_token.observe(first, self._exemplar)
            for seconds, tokens in self._gaps[1:]:
                for _ in range(tokens):
                    metrics.inter_token.observe(seconds / tokens)
        metrics.end_to_end.observe(time.monotonic() - self._started, self._exemplar)
        metrics.queue.observe(_seconds(usage.queue_time), self._exemplar)
        metrics.prefill.observe(_seconds(usage.prefill_time), self._exemplar)
        metrics.decode.observe(_seconds(usage.decode_time), self._exemplar)
        metrics.prompt_tokens.inc(usage.input_tokens)
        metrics.generation_tokens.inc(usage.output_tokens)
        metrics.learnable_tokens.inc(usage.learnable_tokens)
        metrics.finished.labels(_FINISHED[result.finish_reason]).inc()


def _seconds(duration: Any) -> float:
    return float(duration.ToTimedelta().total_seconds())
