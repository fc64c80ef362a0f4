"""Metrics and spans of turns, taken from their events and the clock."""

from __future__ import annotations

import time

from server.app.events import Finished, GenerateEvent, IngestEvent, IngestProgress, TextDelta
from server.telemetry.logs import session_tag
from server.telemetry.metrics import Metrics
from server.telemetry.tracing import NO_TRACES, Tracer


class ReplyClock:
    """Measures one reply by its events and when they are taken. A stored reply is not measured."""

    def __init__(self, metrics: Metrics, session: str, tracer: Tracer = NO_TRACES) -> None:
        self._metrics = metrics
        self._tracer = tracer
        # Leads from a slow bucket to the lines of the log about that session.
        self._exemplar = {"session": session_tag(session)}
        self._started = self._last = time.monotonic()
        # Between two tokens: kept until it is known that the reply is not a stored one.
        self._gaps: list[tuple[float, int]] = []

    def saw(self, event: GenerateEvent) -> None:
        """Take the next event of the reply."""
        if isinstance(event, TextDelta):
            if event.tokens:
                self._text(event.tokens)
        elif isinstance(event, Finished) and not event.replayed:
            self._finished(event)

    def _text(self, tokens: int) -> None:
        now = time.monotonic()
        self._gaps.append((now - self._last, tokens))
        self._last = now

    def _finished(self, finished: Finished) -> None:
        metrics, usage = self._metrics, finished.usage
        if self._gaps:
            first, _ = self._gaps[0]
            metrics.first_token.observe(first, self._exemplar)
            for seconds, tokens in self._gaps[1:]:
                for _ in range(tokens):
                    metrics.inter_token.observe(seconds / tokens)
        metrics.end_to_end.observe(time.monotonic() - self._started, self._exemplar)
        metrics.queue.observe(usage.queue_seconds, self._exemplar)
        metrics.prefill.observe(usage.prefill_seconds, self._exemplar)
        metrics.decode.observe(usage.decode_seconds, self._exemplar)
        metrics.prompt_tokens.inc(usage.input_tokens)
        metrics.generation_tokens.inc(usage.output_tokens)
        metrics.learnable_tokens.inc(usage.learnable_tokens)
        metrics.finished.labels(finished.reason.value).inc()
        self._tracer.phases(
            ("queue", usage.queue_seconds, {}),
            ("prefill", usage.prefill_seconds, {"tokens": usage.input_tokens}),
            ("decode", usage.decode_seconds, {"tokens": usage.output_tokens}),
        )


class IngestCounter:
    """Counts the tokens of one ingest by its events."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._counted = 0

    def saw(self, event: IngestEvent) -> None:
        """Take the next event of the ingest."""
        if isinstance(event, IngestProgress):  # which counts from the call's start
            self._metrics.ingested_tokens.inc(event.tokens - self._counted)
            self._counted = event.tokens
