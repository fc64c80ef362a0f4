"""Traces: a span for each call and for the phases in it, sent on with OpenTelemetry.

The extra `otel` brings the packages. Without them, or without an endpoint, spans cost nothing. No
span holds text or names; sessions appear as their tags (server/telemetry/logs.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

Figures = Mapping[str, str | int | float]
# Name, seconds, figures.
Phase = tuple[str, float, Figures]


class TracingError(OSError):
    """Traces cannot be sent."""


class Tracer(Protocol):
    """Makes spans, each within the one that is open where it is made."""

    def span(self, name: str, **figures: str | int | float) -> AbstractContextManager[object]: ...

    def phases(self, *phases: Phase) -> None:
        """Add spans within the present one that follow each other from its beginning, for phases
        that are known once they are over."""
        ...


class NoTracer:
    """Makes no spans."""

    def span(self, name: str, **figures: str | int | float) -> AbstractContextManager[object]:
        return nullcontext()

    def phases(self, *phases: Phase) -> None:
        pass


NO_TRACES: Tracer = NoTracer()


class OtelTracer:
    """Spans of OpenTelemetry, made by `provider`, an SDK TracerProvider."""

    def __init__(self, provider: Any) -> None:
        self.tracer = provider.get_tracer("hope-server")

    @contextmanager
    def span(self, name: str, **figures: str | int | float) -> Iterator[None]:
        # What an exception says may quote a user.
        with self.tracer.start_as_current_span(
            name, attributes=attributes(figures), record_exception=False
        ):
            yield

    def phases(self, *phases: Phase) -> None:
        from opentelemetry import trace

        # None for a span that is not recorded: nothing is known of when it began.
        at = getattr(trace.get_current_span(), "start_time", None)
        if at is None:
            return
        for name, seconds, figures in phases:
            ends = at + round(seconds * 1e9)
            part = self.tracer.start_span(name, start_time=at, attributes=attributes(figures))
            part.end(ends)
            at = ends


def attributes(figures: Figures) -> dict[str, str | int | float]:
    """Figures under our prefix."""
    return {f"hope.{name}": value for name, value in figures.items()}


@contextmanager
def sent_to(endpoint: str) -> Iterator[OtelTracer]:
    """A tracer whose spans go to an OTLP endpoint, such as http://127.0.0.1:4317, in the
    background; what is left goes when the block ends. Raises TracingError without the packages."""
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise TracingError(
            "traces require extra packages; run: pip install 'hope-server[otel]'"
        ) from None
    provider = TracerProvider(resource=Resource.create({"service.name": "hope-server"}))
    exporter = OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://"))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    try:
        yield OtelTracer(provider)
    finally:
        provider.shutdown()
