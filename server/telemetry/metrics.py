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
    Histogram,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from hope_runtime.engine.base import EngineLoad
from hope_runtime.learning import Consolidation
from hope_runtime.session.guards import Guard
from server.app.summary import Summary
from server.store.base import (
    LeaseLostError,
    StaleRevisionError,
    StoreFullError,
    StoreUnavailableError,
)

# Seconds. A reply on one core and one on an accelerator must both fall inside.
REQUEST_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
TOKEN_SECONDS = (0.003, 0.01, 0.03, 0.05, 0.1, 0.2, 0.5, 1, 3)
COMMIT_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3)
LEARN_SECONDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)
# Nats per token.
SURPRISE_NATS = (0.1, 0.3, 1, 2, 3, 5, 7, 10)
# Norms over that of the base weights.
RELATIVE_NORMS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1)
GRADIENT_NORMS = (0.03, 0.1, 0.3, 1, 3, 10, 30)
RANKS = (1, 2, 4, 8, 16, 32)
PROBE_NATS = (-0.1, -0.03, 0, 0.01, 0.03, 0.1, 0.3, 1)
REQUEST_KINDS = ("generate", "ingest", "score")
OUTCOMES = ("ok", "refused", "cancelled", "failed")
FINISH_REASONS = ("stop", "length", "stop_string")
_STORE_ERRORS = (
    (StoreUnavailableError, "unavailable"),
    (LeaseLostError, "lease_lost"),
    (StaleRevisionError, "stale"),
    (StoreFullError, "full"),
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
        self.store_errors = self._counter("store_errors", "Failed commits by error.", "error")
        self.store_retries = self._counter("store_retries", "Retried commits.")
        self.rollbacks = self._counter("rollbacks", "Rollbacks of sessions to an earlier version.")
        self.learning_failures = self._counter(
            "learning_failures", "Failed consolidations, which will be retried."
        )
        self.learn = self._histogram(
            "learn_seconds", "Duration of one consolidation of a level.", LEARN_SECONDS, "level"
        )
        self.learnt_tokens = self._counter("learnt_tokens", "Tokens learnt by a level.", "level")
        self.trained_tokens = self._counter(
            "trained_tokens", "Tokens run forward and backward to train a level.", "level"
        )
        self.surprise_before = self._histogram(
            "surprise_before_nats",
            "Mean negative log-likelihood of the training spans before a consolidation.",
            SURPRISE_NATS,
            "level",
        )
        self.surprise_after = self._histogram(
            "surprise_after_nats",
            "Mean negative log-likelihood of the training spans after a consolidation.",
            SURPRISE_NATS,
            "level",
        )
        self.relative_norm = self._histogram(
            "level_relative_norm_ratio",
            "Norm of a level relative to the base weights, at each consolidation.",
            RELATIVE_NORMS,
            "level",
        )
        self.update_ratio = self._histogram(
            "level_update_ratio",
            "Norm of the change made by a consolidation relative to the base weights.",
            RELATIVE_NORMS,
            "level",
        )
        self.gradient_norm = self._histogram(
            "gradient_norm", "Mean gradient norm of a consolidation.", GRADIENT_NORMS, "level"
        )
        self.effective_rank = self._histogram(
            "level_effective_rank", "Effective rank of a level's weight change.", RANKS, "level"
        )
        self.probe_change = self._histogram(
            "probe_loss_change_nats",
            "Loss on the base model's own samples, adapted minus frozen; positive means damage.",
            PROBE_NATS,
        )
        self.probe_divergence = self._histogram(
            "probe_divergence_nats",
            "KL(base || adapted) on the base model's own samples.",
            PROBE_NATS,
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
        """Adds what both carry, asked for at each scrape on a thread of its own."""
        self.registry.register(_Load(engine, residency))

    @contextlib.contextmanager
    def commit(self) -> Iterator[None]:
        """Measures the commit in the block; counts the error that it raises."""
        started = time.monotonic()
        try:
            yield
        except Exception as error:
            self.store_errors.labels(_store_error(error)).inc()
            raise
        self.commits.observe(time.monotonic() - started)

    def learnt(self, reports: Sequence[Consolidation], summary: Summary) -> None:
        """Counts consolidations; `summary` is of the memory after them."""
        for report in reports:
            level = str(report.level)
            self.learn.labels(level).observe(report.seconds)
            for event in report.guards:
                self.guards.labels(event.guard).inc()
            if not report.tokens:
                continue
            self.learnt_tokens.labels(level).inc(report.tokens)
            self.trained_tokens.labels(level).inc(report.trained_tokens)
            self.surprise_before.labels(level).observe(report.surprise_before_nats)
            self.surprise_after.labels(level).observe(report.surprise_after_nats)
            norm = summary.levels[report.level].relative_norm
            self.relative_norm.labels(level).observe(norm)
            if report.drift is not None:
                self.update_ratio.labels(level).observe(report.drift.update_ratio)
                self.gradient_norm.labels(level).observe(report.drift.steps.gradient_norm)
                self.effective_rank.labels(level).observe(report.drift.effective_rank)
            if report.probed is not None:
                self.probe_change.observe(report.probed.change_nats)
                self.probe_divergence.observe(report.probed.divergence_nats)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"hope_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(f"hope_{name}", text, labels, buckets=buckets, registry=self.registry)


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
