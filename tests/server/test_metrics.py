"""Metrics as Prometheus sees them: scraped over HTTP from a live server, after real requests."""

from __future__ import annotations

import asyncio
import math
import threading
import urllib.request
from types import SimpleNamespace
from typing import Any

import pytest
from api import Api
from grpc import aio
from prometheus_client import Metric
from prometheus_client.openmetrics import parser as open_metrics
from prometheus_client.parser import text_string_to_metric_families
from serving import Serve, Served

from hope_runtime.learning import Consolidation
from hope_runtime.learning.probes import Probed
from server.telemetry.metrics import Metrics, MetricsPort

REQUEST = ["0.01", "0.03", "0.1", "0.3", "1.0", "3.0", "10.0", "30.0", "100.0", "+Inf"]
TOKEN = ["0.003", "0.01", "0.03", "0.05", "0.1", "0.2", "0.5", "1.0", "3.0", "+Inf"]
COMMIT = ["0.001", "0.003", "0.01", "0.03", "0.1", "0.3", "1.0", "3.0", "+Inf"]
LEARN = ["0.1", "0.3", "1.0", "3.0", "10.0", "30.0", "100.0", "300.0", "1000.0", "+Inf"]
NATS = ["0.1", "0.3", "1.0", "2.0", "3.0", "5.0", "7.0", "10.0", "+Inf"]
NORM = ["0.001", "0.003", "0.01", "0.03", "0.1", "0.3", "1.0", "+Inf"]
GRADIENT = ["0.03", "0.1", "0.3", "1.0", "3.0", "10.0", "30.0", "+Inf"]
RANK = ["1.0", "2.0", "4.0", "8.0", "16.0", "32.0", "+Inf"]
PROBE = ["-0.1", "-0.03", "0.0", "0.01", "0.03", "0.1", "0.3", "1.0", "+Inf"]
# Whoever adds a metric adds it here, and whoever renames one breaks somebody's dashboard.
METRICS: dict[str, tuple[str, list[str], list[str]]] = {
    "hope_requests": ("counter", ["kind", "outcome"], []),
    "hope_request_success": ("counter", ["finished_reason"], []),
    "hope_prompt_tokens": ("counter", [], []),
    "hope_generation_tokens": ("counter", [], []),
    "hope_learnable_tokens": ("counter", [], []),
    "hope_ingested_tokens": ("counter", [], []),
    "hope_time_to_first_token_seconds": ("histogram", [], REQUEST),
    "hope_inter_token_latency_seconds": ("histogram", [], TOKEN),
    "hope_e2e_request_latency_seconds": ("histogram", [], REQUEST),
    "hope_request_queue_time_seconds": ("histogram", [], REQUEST),
    "hope_request_prefill_time_seconds": ("histogram", [], REQUEST),
    "hope_request_decode_time_seconds": ("histogram", [], REQUEST),
    "hope_store_commit_seconds": ("histogram", [], COMMIT),
    "hope_store_errors": ("counter", ["error"], []),
    "hope_store_writable": ("gauge", [], []),
    "hope_store_retries": ("counter", [], []),
    "hope_rollbacks": ("counter", [], []),
    "hope_learning_failures": ("counter", [], []),
    "hope_learn_seconds": ("histogram", ["level"], LEARN),
    "hope_learning_phase_seconds": ("counter", ["phase"], []),
    "hope_learnt_tokens": ("counter", ["level"], []),
    "hope_trained_tokens": ("counter", ["level"], []),
    "hope_surprise_before_nats": ("histogram", ["level"], NATS),
    "hope_surprise_after_nats": ("histogram", ["level"], NATS),
    "hope_level_relative_norm_ratio": ("histogram", ["level"], NORM),
    "hope_level_update_ratio": ("histogram", ["level"], NORM),
    "hope_gradient_norm": ("histogram", ["level"], GRADIENT),
    "hope_level_effective_rank": ("histogram", ["level"], RANK),
    "hope_probe_loss_change_nats": ("histogram", [], PROBE),
    "hope_probe_divergence_nats": ("histogram", [], PROBE),
    "hope_guard_events": ("counter", ["guard"], []),
    "hope_num_requests_running": ("gauge", [], []),
    "hope_num_requests_waiting": ("gauge", [], []),
    "hope_num_consolidations": ("gauge", [], []),
    "hope_resident_windows": ("gauge", [], []),
    "hope_resident_cache_bytes": ("gauge", [], []),
    "hope_resident_sessions": ("gauge", [], []),
    "hope_resident_state_bytes": ("gauge", [], []),
}
MAX_SERIES = 400


# As a real Prometheus asks for it.
OPEN_METRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}


def scraped(port: int | None, headers: dict[str, str] | None = None) -> str:
    """The text of a scrape, in the classic format unless the headers ask for another."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers=headers or {})
    with urllib.request.urlopen(request, timeout=10) as response:
        return str(response.read(), "utf-8")


def strictly(text: str) -> dict[str, Metric]:
    """What a strict parser of OpenMetrics reads; it raises ValueError for any fault."""
    return {family.name: family for family in open_metrics.text_string_to_metric_families(text)}


async def scrape(served: Served) -> dict[str, Metric]:
    """What Prometheus would read now, by name; the same in both formats."""
    port = served.running.metrics_port
    text = await asyncio.to_thread(scraped, port)
    classic = {family.name: family for family in text_string_to_metric_families(text)}
    strict = strictly(await asyncio.to_thread(scraped, port, OPEN_METRICS))
    assert {name: shape(each) for name, each in strict.items()} == {
        name: shape(each) for name, each in classic.items()
    }
    return classic


def value_of(metrics: dict[str, Metric], name: str, **labels: str) -> float:
    """One sample of a scrape, by its full name."""
    found = [
        sample.value
        for family in metrics.values()
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    ]
    assert len(found) == 1, (name, labels, found)
    return found[0]


def shape(family: Metric) -> tuple[str, list[str], list[str]]:
    labels = {name for sample in family.samples for name in sample.labels} - {"le"}
    buckets = list(dict.fromkeys(s.labels["le"] for s in family.samples if "le" in s.labels))
    return family.type, sorted(labels), buckets


async def test_the_list_of_metrics_and_their_buckets(serve: Serve) -> None:
    async with serve(metrics_port=0) as served:
        await served.api.create()
        await served.api.say("My cat is called Ada and she is very old.")
        await served.api.end_conversation()
        await served.api.ingest([b"The second river of this land is called Oro. " * 40])
        metrics = await scrape(served)
    assert {name: shape(family) for name, family in metrics.items()} == METRICS
    assert sum(len(family.samples) for family in metrics.values()) <= MAX_SERIES


async def test_a_scrape_says_what_happened(serve: Serve) -> None:
    async with serve(metrics_port=0) as served:
        api = served.api
        await api.create()
        first = await api.say("My cat is called Ada and she is very old.")
        second = await api.say("What is she called?", request_id="one")
        await api.say("What is she called?", request_id="one")  # a stored reply counts once
        learnt = (await api.end_conversation()).consolidations
        progress = await api.ingest([b"The river is called Oro. "])
        await api.score("x")
        await api.rollback()
        with pytest.raises(aio.AioRpcError):
            await api.say("Hi.", max_tokens=0)
        metrics = await scrape(served)
    usages = [first.usage, second.usage]

    def read(name: str, **labels: str) -> float:
        return value_of(metrics, f"hope_{name}", **labels)

    assert read("prompt_tokens_total") == sum(each.input_tokens for each in usages)
    assert read("generation_tokens_total") == sum(each.output_tokens for each in usages)
    assert read("learnable_tokens_total") == sum(each.learnable_tokens for each in usages)
    assert read("ingested_tokens_total") == progress.tokens > 0
    assert read("requests_total", kind="generate", outcome="ok") == 3
    assert read("requests_total", kind="generate", outcome="refused") == 1
    assert read("requests_total", kind="ingest", outcome="ok") == 1
    assert read("requests_total", kind="score", outcome="ok") == 1
    assert read("requests_total", kind="score", outcome="failed") == 0
    assert read("rollbacks_total") == 1
    assert read("e2e_request_latency_seconds_count") == 2
    assert read("time_to_first_token_seconds_count") == 2
    decode = sum(each.decode_time.ToTimedelta().total_seconds() for each in usages)
    # Messages have whole microseconds, metrics do not.
    assert read("request_decode_time_seconds_sum") == pytest.approx(decode, abs=2e-6)
    assert read("learnt_tokens_total", level="0") >= sum(each.tokens for each in learnt) > 0
    assert read("surprise_before_nats_sum", level="0") > 0
    assert read("gradient_norm_count", level="0") == read("learn_seconds_count", level="0")
    assert read("probe_loss_change_nats_bucket", le="+Inf") >= 1
    assert read("store_commit_seconds_count") >= 4
    assert read("resident_sessions") == 1
    assert read("store_errors_total", error="unavailable") == 0


async def test_no_label_names_a_user_or_a_session(serve: Serve) -> None:
    async with serve(metrics_port=0) as served:
        await served.api.create()
        await served.api.say("Hello.")
        metrics = await scrape(served)
    labels = {
        (name, label)
        for family in metrics.values()
        for sample in family.samples
        for name, label in sample.labels.items()
    }
    assert {name for name, _ in labels} <= {"kind", "outcome", "finished_reason", "error"} | {
        "guard",
        "level",
        "le",
    }
    assert not any(word in label for _, label in labels for word in ("ada", "diary"))


async def test_a_scrape_does_not_wait_for_a_step(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(metrics_port=0) as served:
        await served.api.create()
        engine: Any = served.running.sessions.engine
        inside, goes_on = threading.Event(), threading.Event()
        run = engine._runner.run

        def held(passes: Any) -> Any:
            inside.set()
            goes_on.wait(30)
            return run(passes)

        monkeypatch.setattr(engine._runner, "run", held)
        reply = asyncio.create_task(served.api.say("Hello."))
        try:
            assert await asyncio.to_thread(inside.wait, 30)
            metrics = await scrape(served)
            assert value_of(metrics, "hope_num_requests_running") == 1
        finally:
            goes_on.set()
        await reply


async def test_a_client_that_goes_away_is_counted(serve: Serve) -> None:
    async with serve(metrics_port=0) as served:
        await served.api.create()
        call = served.api.inference.Generate(served.api.asking("Hello.", max_tokens=200))
        async for _ in call:
            break
        call.cancel()
        for _ in range(100):
            metrics = await scrape(served)
            if value_of(metrics, "hope_requests_total", kind="generate", outcome="cancelled"):
                break
            await asyncio.sleep(0.05)
        assert value_of(metrics, "hope_requests_total", kind="generate", outcome="cancelled") == 1
        assert value_of(metrics, "hope_generation_tokens_total") == 0


async def test_without_a_port_nothing_listens(api: Api, served: Served) -> None:
    await api.say("Hello.")
    assert served.running.metrics_port is None


def test_what_never_happened_is_zero() -> None:
    samples = [sample for family in Metrics().registry.collect() for sample in family.samples]
    zero = {(sample.name, *sample.labels.values()) for sample in samples if sample.value == 0}
    assert ("hope_store_errors_total", "lease_lost") in zero
    assert ("hope_requests_total", "generate", "failed") in zero


@pytest.mark.parametrize(
    "values",
    [
        (),
        (-0.5, -0.02, 0.0, 0.4),
        (-1e9,),
        (-1e-12, 3.0),
        (math.nan, 0.2),
        (math.inf, -math.inf, 0.2),
    ],
)
def test_a_strict_parser_takes_whatever_was_observed(values: tuple[float, ...]) -> None:
    metrics = Metrics()
    finite = [value for value in values if math.isfinite(value)]
    for value in values:
        learnt = Consolidation(0, 1, 1, 1, value, value, 1, 0.1, probed=Probed(0.0, value, value))
        metrics.learnt([learnt], [SimpleNamespace(relative_norm=value)])
        metrics.end_to_end.observe(value, {"session": "0123456789ab"})
    with MetricsPort.open(metrics, 0) as port:
        families = strictly(scraped(port.port, OPEN_METRICS))

    def read(name: str, **labels: str) -> float:
        return value_of(families, f"hope_{name}", **labels)

    assert read("probe_loss_change_nats_bucket", le="0.0") == sum(each <= 0 for each in finite)
    assert read("probe_loss_change_nats_bucket", le="+Inf") == len(finite)
    # What cannot be below zero counts as zero when rounding says so.
    assert read("e2e_request_latency_seconds_count") == len(finite)
    total = pytest.approx(sum(max(0.0, each) for each in finite))
    assert read("e2e_request_latency_seconds_sum") == total
    if values:
        assert read("surprise_before_nats_sum", level="0") == total
    suffixes = {each.name for each in families["hope_probe_loss_change_nats"].samples}
    assert suffixes == {"hope_probe_loss_change_nats_bucket"}
