"""Spans of a real server, taken by an exporter in memory: how they nest, what they do not say."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from api import refused, secrets_in
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from serving import Serve

from server.telemetry.logs import session_tag
from server.telemetry.tracing import OtelTracer, TracingError, sent_to

TEXT = "My dog Rolf swims in the river Tern. " * 8
SECRETS = ("ada", "diary", "Rolf", "Tern")
GENERATE = "hope.v1.InferenceService/Generate"


class Spans(InMemorySpanExporter):
    def named(self, name: str) -> ReadableSpan:
        (found,) = (span for span in self.get_finished_spans() if span.name == name)
        return found

    def within(self, parent: ReadableSpan) -> list[ReadableSpan]:
        """Its parts, in the order in which they began."""
        number = parent.get_span_context().span_id
        found = [s for s in self.get_finished_spans() if s.parent and s.parent.span_id == number]
        return sorted(found, key=lambda span: span.start_time or 0)


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture
def tracer(spans: Spans) -> OtelTracer:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return OtelTracer(provider)


async def test_a_reply_has_its_phases_its_commits_and_what_it_taught(
    serve: Serve, spans: Spans, tracer: OtelTracer
) -> None:
    async with serve(tracer=tracer) as served:
        api = served.api
        await api.create()
        spans.clear()
        result = await api.say(TEXT)
        await api.learnt()
    call = spans.named(GENERATE)
    assert (call.attributes or {})["rpc.grpc.status_code"] == 0
    assert (call.attributes or {})["hope.session"] == session_tag(api.name)
    parts = spans.within(call)
    names = [part.name for part in parts]
    assert names[:4] == ["queue", "prefill", "decode", "commit"]
    # The text passed boundaries, which are learnt once the reply has ended.
    assert set(names[4:-1]) == {"learn"}
    assert names[-1] == "commit"
    queue, prefill, decode = parts[:3]
    assert queue.start_time == call.start_time
    assert (queue.end_time, prefill.end_time) == (prefill.start_time, decode.start_time)
    assert (prefill.attributes or {})["hope.tokens"] == result.usage.input_tokens
    assert (decode.attributes or {})["hope.tokens"] == result.usage.output_tokens
    durable = parts[3].end_time or 0
    assert all((part.start_time or 0) >= durable for part in parts[4:])
    said = " ".join(span.to_json() for span in spans.get_finished_spans())
    assert secrets_in(said, SECRETS) == []


async def test_a_call_is_part_of_its_callers_trace(
    serve: Serve, spans: Spans, tracer: OtelTracer
) -> None:
    trace, parent = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7
    async with serve(tracer=tracer) as served:
        await served.api.create()
        request = served.api.asking("Hello.")
        metadata = (("traceparent", f"00-{trace:032x}-{parent:016x}-01"),)
        async for _ in served.api.inference.Generate(request, metadata=metadata):
            pass
    call = spans.named(GENERATE)
    assert call.get_span_context().trace_id == trace
    assert call.parent is not None
    assert call.parent.span_id == parent


async def test_an_error_says_its_code_and_not_its_words(
    serve: Serve, spans: Spans, tracer: OtelTracer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError(TEXT)

    async with serve(tracer=tracer) as served:
        await served.api.create()
        async with refused(grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND"):
            await served.api.on("absent").say("Hello.")
        monkeypatch.setattr(served.running.sessions.engine, "score", broken)
        with pytest.raises(grpc.aio.AioRpcError):
            await served.api.score("Hello.")
    refused_call, failed = spans.named(GENERATE), spans.named("hope.v1.InferenceService/Score")
    codes = grpc.StatusCode.NOT_FOUND.value[0], grpc.StatusCode.INTERNAL.value[0]
    found = [(span.attributes or {})["rpc.grpc.status_code"] for span in (refused_call, failed)]
    assert found == list(codes)
    # What the caller did wrong is no failure of the server.
    assert refused_call.status.status_code is StatusCode.UNSET
    assert failed.status.status_code is StatusCode.ERROR
    assert "Rolf" not in failed.to_json()


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """What a collector of OpenTelemetry is to the exporter."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def Export(self, request: Any, context: Any) -> Any:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.names += [span.name for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
def collector() -> Iterator[tuple[Collector, str]]:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    servicer = Collector()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"http://127.0.0.1:{port}"
    server.stop(None)


async def test_spans_reach_a_collector_before_the_server_has_stopped(
    serve: Serve, collector: tuple[Collector, str]
) -> None:
    servicer, endpoint = collector
    async with serve(otlp_endpoint=endpoint) as served:
        await served.api.create()
        await served.api.say("Hello.")
    assert GENERATE in servicer.names
    assert {"queue", "prefill", "decode", "commit"} <= set(servicer.names)


def test_without_the_packages_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(TracingError, match=r"hope-server\[otel\]"), sent_to("http://127.0.0.1:1"):
        pass
