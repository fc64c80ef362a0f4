"""Metrics of the server, and the port on which Prometheus scrapes them.

Names of serving metrics are those that vLLM's users know, with the prefix `hope_`. Units are base
units. No label names a user or a session, so the number of series is fixed: a test pins them.

Handlers and sessions only add to counters here. A scrape runs on a thread of its own; it asks the
engine for its load, which counts tickets and waits for no step.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from hope_runtime.engine.base import EngineLoad
from hope_runtime.learning import Consolidation
from hope_runtime.learning.figures import FIGURES, LEVEL_FIGURES, Figure, LevelFigure, Metric
from hope_runtime.session.guards import Guard
from server.store.errors import (
    LeaseLostError,
    StaleRevisionError,
    StoreFullError,
    StoreLostError,
    StoreUnavailableError,
)
from server.telemetry.histograms import PositiveHistogram, SignedHistogram

# Seconds. A reply on one core and one on an accelerator must both fall inside.
REQUEST_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
TOKEN_SECONDS = (0.003, 0.01, 0.03, 0.05, 0.1, 0.2, 0.5, 1, 3)
COMMIT_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3)
REQUEST_KINDS = ("generate", "ingest", "score")
OUTCOMES = ("ok", "refused", "cancelled", "failed")
FINISH_REASONS = ("stop", "length", "stop_string")
_STORE_ERRORS = (
    (StoreUnavailableError, "unavailable"),
    (LeaseLostError, "lease_lost"),
    (StaleRevisionError, "stale"),
    (StoreFullError, "full"),
    (StoreLostError, "lost"),
)
STORE_ERRORS = (*(name for _, name in _STORE_ERRORS), "other")

# When a series began is nobody's question, and would double their number.
disable_created_metrics()  # type: ignore[no-untyped-call]


class _Engine(Protocol):
    def load(self) -> EngineLoad: ...


class _Residency(Protocol):
    @property
    def resident_count(self) -> int: ...

    @property
    def resident_bytes(self) -> int: ...


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter(
            "requests", "Requests by kind and outcome.", "kind", "outcome"
        )
        self.finished = self._counter(
            "request_success", "Finished replies by reason.", "finished_reason"
        )
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens processed.")
        self.generation_tokens = self._counter("generation_tokens", "Reply tokens generated.")
        self.learnable_tokens = self._counter(
            "learnable_tokens", "Learnable tokens received in chats."
        )
        self.ingested_tokens = self._counter("ingested_tokens", "Document tokens ingested.")
        self.first_token = self._histogram(
            "time_to_first_token_seconds",
            "Time from the request to the first text of the reply.",
            REQUEST_SECONDS,
        )
        self.inter_token = self._histogram(
            "inter_token_latency_seconds", "Time between two tokens of a reply.", TOKEN_SECONDS
        )
        self.end_to_end = self._histogram(
            "e2e_request_latency_seconds",
            "Time from the request to the end of the reply.",
            REQUEST_SECONDS,
        )
        self.queue = self._histogram(
            "request_queue_time_seconds",
            "Time a request waited for its session and for a batch slot.",
            REQUEST_SECONDS,
        )
        self.prefill = self._histogram(
            "request_prefill_time_seconds", "Time spent processing the prompt.", REQUEST_SECONDS
        )
        self.decode = self._histogram(
            "request_decode_time_seconds", "Time spent generating the reply.", REQUEST_SECONDS
        )
        self.commits = self._histogram(
            "store_commit_seconds", "Duration of a commit, retries included.", COMMIT_SECONDS
        )
        self.store_errors = self._counter(
            "store_errors", "Commits that failed, or were not tried because they would.", "error"
        )
        self.store_writable = Gauge(
            "hope_store_writable",
            "1 while the store accepts writes, 0 while it is full or lost.",
            registry=self.registry,
        )
        self.store_retries = self._counter("store_retries", "Retried commits.")
        self.rollbacks = self._counter("rollbacks", "Rollbacks of sessions to an earlier version.")
        self.learning_failures = self._counter(
            "learning_failures", "Failed consolidations, which will be retried."
        )
        # Figures of learning, by their rows.
        self._learning: dict[Figure | LevelFigure, Counter | Histogram | SignedHistogram] = {
            figure: self._metric(figure.metric)
            for figure in (*FIGURES, *LEVEL_FIGURES)
            if figure.metric is not None
        }
        self.phases = self._counter(
            "learning_phase_seconds", "Duration of consolidations by phase.", "phase"
        )
        self.guards = self._counter("guard_events", "Guard decisions by guard.", "guard")
        # What never happened is 0, not absent: a rule on it must hold from the start.
        for kind in REQUEST_KINDS:
            for outcome in OUTCOMES:
                self.requests.labels(kind, outcome)
        for reason in FINISH_REASONS:
            self.finished.labels(reason)
        for error in STORE_ERRORS:
            self.store_errors.labels(error)
        for guard in Guard:
            self.guards.labels(guard)

    def watch(self, engine: _Engine, residency: _Residency) -> None:
        """Add gauges of both, read at each scrape on a thread of its own."""
        self.registry.register(_Load(engine, residency))

    @contextlib.contextmanager
    def commit(self) -> Iterator[None]:
        """Time the commit in the block; count the error that it raises."""
        started = time.monotonic()
        try:
            yield
        except Exception as error:
            self.store_failed(error)
            raise
        self.commits.observe(time.monotonic() - started)

    def store_failed(self, error: Exception) -> None:
        """Count a commit that failed, or that was not tried because it would have."""
        self.store_errors.labels(_store_error(error)).inc()

    def learnt(self, reports: Sequence[Consolidation], levels: Sequence[object]) -> None:
        """Count consolidations. `levels` have the figures of the levels after them as attributes
        (LEVEL_FIGURES)."""
        for report in reports:
            for phase, seconds in report.phases.items():
                self.phases.labels(phase).inc(seconds)
            for event in report.guards:
                self.guards.labels(event.guard).inc()
            for figure in self._learning:
                if isinstance(figure, Figure):
                    value = figure.of(report) if report.tokens or figure.always else None
                else:
                    value = getattr(levels[report.level], figure.name) if report.tokens else None
                if value is not None:
                    self._observe(figure, report.level, value)

    def _observe(self, figure: Figure | LevelFigure, level: int, value: float) -> None:
        collector = self._learning[figure]
        if isinstance(collector, SignedHistogram):
            collector.observe(value)
            return
        if figure.metric is not None and not figure.metric.of_memory:
            collector = collector.labels(str(level))
        if isinstance(collector, Histogram):
            collector.observe(value)
        else:
            collector.inc(value)

    def _metric(self, metric: Metric) -> Counter | Histogram | SignedHistogram:
        if metric.of_memory and metric.buckets and metric.buckets[0] < 0:
            signed = SignedHistogram(f"hope_{metric.name}", metric.help, metric.buckets)
            self.registry.register(signed)
            return signed
        labels = () if metric.of_memory else ("level",)
        if metric.buckets:
            return self._histogram(metric.name, metric.help, metric.buckets, *labels)
        return self._counter(metric.name, metric.help, *labels)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"hope_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return PositiveHistogram(
            f"hope_{name}", text, labels, buckets=buckets, registry=self.registry
        )


@dataclass(frozen=True, slots=True)
class MetricsPort:
    """Serves a registry over HTTP, on threads of its own, until closed.

    Raises OSError when the port is taken. `port` 0 picks a free one.
    """

    port: int
    _close: contextlib.ExitStack

    @staticmethod
    def open(metrics: Metrics, port: int, host: str = "127.0.0.1") -> MetricsPort:
        server, thread = start_http_server(port, addr=host, registry=metrics.registry)
        stack = contextlib.ExitStack()
        stack.callback(thread.join)
        stack.callback(server.server_close)
        stack.callback(server.shutdown)
        return MetricsPort(server.server_port, stack)

    def __enter__(self) -> MetricsPort:
        return self

    def __exit__(self, *_: object) -> None:
        self._close.close()


class _Load(Collector):
    def __init__(self, engine: _Engine, residency: _Residency) -> None:
        self._engine = engine
        self._residency = residency

    def collect(self) -> Iterator[GaugeMetricFamily]:
        load = self._engine.load()
        sessions, state_bytes = self._residency.resident_count, self._residency.resident_bytes
        for name, text, value in (
            ("num_requests_running", "Turns running in the engine.", load.running),
            ("num_requests_waiting", "Turns waiting for the engine.", load.waiting),
            ("num_consolidations", "Consolidations running or waiting.", load.learning),
            ("resident_windows", "Windows in use or cached.", load.resident_rows),
            ("resident_cache_bytes", "Bytes taken by windows and memories.", load.resident_bytes),
            ("resident_sessions", "Sessions leased by this server.", sessions),
            (
                "resident_state_bytes",
                "Bytes of the levels of the sessions leased by this server.",
                state_bytes,
            ),
        ):
            yield GaugeMetricFamily(f"hope_{name}", text, value)


def _store_error(error: Exception) -> str:
    return next((name for kind, name in _STORE_ERRORS if isinstance(error, kind)), "other")
