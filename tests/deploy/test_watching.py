"""Dashboard, alerts and runbook: every metric in them exists, and a real Prometheus takes them."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from hope_runtime.engine.base import EngineLoad
from server.telemetry.metrics import Metrics, MetricsPort

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/hope.json").read_text("utf-8"))
RULES = yaml.safe_load((DEPLOY / "prometheus/rules.yaml").read_text("utf-8"))
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
# Given by Prometheus itself, to every series.
TARGET_LABELS = {"instance", "job"}


class Idle:
    """What a server that does nothing says of its load."""

    resident_count = 0
    resident_bytes = 0

    def load(self) -> EngineLoad:
        return EngineLoad(0, 0, 0, 0, 0)


@pytest.fixture(scope="module")
def metrics() -> Metrics:
    made = Metrics()
    made.watch(Idle(), Idle())
    return made


@pytest.fixture(scope="module")
def known(metrics: Metrics) -> dict[str, set[str]]:
    """Labels of every series that a server may give, by name."""
    labelled = {
        f"{name}_{suffix}": {*collector._labelnames, *(("le",) if suffix == "bucket" else ())}
        for collector, names in metrics.registry._collector_to_names.items()
        if hasattr(collector, "_labelnames")
        for name in [collector._name]
        for suffix in ("total", "bucket", "sum", "count")
        if f"{name}_{suffix}" in names
    }
    families = list(metrics.registry.collect())
    gauges = {each.name: set() for each in families if each.type == "gauge"}
    # Of those that are not collected by the library itself.
    buckets = {f"{each.name}_bucket": {"le"} for each in families if each.type == "histogram"}
    return gauges | buckets | labelled


def expressions() -> Iterator[tuple[str, str]]:
    for alert in ALERTS:
        yield alert["alert"], alert["expr"]
    for panel in PANELS:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        yield variable["name"], variable["query"]["query"]


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_what_is_asked_for_exists(where: str, expression: str, known: dict[str, set[str]]) -> None:
    found = re.findall(r"\b(hope_\w+)(?:\{([^}]*)\})?", expression)
    assert found or "up{" in expression
    for name, matchers in found:
        assert name in known, f"{where} asks for {name}"
        labels = set(re.findall(r"(\w+)=", matchers)) - TARGET_LABELS
        assert labels <= known[name], f"{where} asks for {labels} of {name}"
    every = set().union(*(known[name] for name, _ in found)) | TARGET_LABELS
    for grouped in re.findall(r"by \(([^)]*)\)", expression):
        assert {label.strip() for label in grouped.split(",")} <= every, where


def test_what_is_counted_by_a_label_has_the_values_that_rules_ask_for(metrics: Metrics) -> None:
    """A rule on a value that never comes would be silent for ever."""
    values = {
        (label, value)
        for family in metrics.registry.collect()
        for sample in family.samples
        for label, value in sample.labels.items()
    }
    asked = re.findall(r'(\w+)=~?"([^"]*)"', " ".join(alert["expr"] for alert in ALERTS))
    assert asked
    for label, pattern in asked:
        if label not in TARGET_LABELS:
            assert all((label, value) in values for value in pattern.split("|")), pattern


def test_every_metric_is_drawn(known: dict[str, set[str]]) -> None:
    drawn = " ".join(target["expr"] for panel in PANELS for target in panel["targets"])
    bases = {re.sub(r"_(bucket|sum|count)$", "", name) for name in known}
    assert {name for name in bases if not re.search(rf"\b{name}", drawn)} == set()


def test_every_alert_says_what_to_do() -> None:
    headings = re.findall(r"^### (\w+)$", (ROOT / "docs/runbook.md").read_text("utf-8"), re.M)
    assert headings == [alert["alert"] for alert in ALERTS]
    for alert in ALERTS:
        assert alert["for"]
        assert alert["labels"]["severity"] in ("warning", "critical")
        assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
        assert alert["annotations"]["runbook_url"] == f"docs/runbook.md#{alert['alert'].lower()}"


def test_every_alert_is_tested() -> None:
    tested = (DEPLOY / "prometheus/rules.test.yaml").read_text("utf-8")
    assert [alert["alert"] for alert in ALERTS if alert["alert"] not in tested] == []


def test_panels_have_places_of_their_own() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken
        taken |= cells
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(numbers) == len(set(numbers))


def needs(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed (Debian: prometheus)")
    return found


@pytest.mark.parametrize(
    "words",
    [
        ("check", "rules", "rules.yaml"),
        ("check", "config", "prometheus.yaml"),
        ("test", "rules", "rules.test.yaml"),
    ],
)
def test_promtool_agrees(words: tuple[str, ...]) -> None:
    command = [needs("promtool"), *words]
    done = subprocess.run(command, cwd=DEPLOY / "prometheus", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_real_prometheus_scrapes_and_evaluates(metrics: Metrics, tmp_path: Path) -> None:
    """Every expression of rules and dashboard, over what a live port gives."""
    program = needs("prometheus")
    shutil.copy(DEPLOY / "prometheus/rules.yaml", tmp_path)
    with MetricsPort.open(metrics, 0) as scraped:
        config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yaml").read_text("utf-8"))
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["scrape_configs"] = config["scrape_configs"][:1]
        config["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{scraped.port}"]
        (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
        with running(program, tmp_path) as base:
            metrics.requests.labels("generate", "ok").inc(3)
            until(lambda: result(base, 'sum(hope_requests_total{job="hope"})'), ["3"])
            until(lambda: result(base, 'up{job="hope"}'), ["1"])
            for _, expression in expressions():
                if not expression.startswith("label_values"):
                    filled = expression.replace("$__rate_interval", "1m")
                    result(base, filled.replace("$instance", ".*"))
            until(lambda: health(base), {"ok"})


@contextmanager
def running(program: str, directory: Path) -> Iterator[str]:
    """A Prometheus that is ready; where it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [program, f"--config.file={directory / 'prometheus.yaml'}"]
    command += [f"--storage.tsdb.path={directory / 'data'}", f"--web.listen-address={address}"]
    with (directory / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            until(lambda: ready(f"http://{address}/-/ready"), True)
            yield f"http://{address}"
        finally:
            process.terminate()


def ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as response:
        answer = json.load(response)
    assert answer["status"] == "success", answer
    return answer["data"]


def result(base: str, expression: str) -> list[str]:
    """Values of a query. What Prometheus does not understand is an error of HTTP."""
    asked = urllib.parse.urlencode({"query": expression})
    return [each["value"][1] for each in get(f"{base}/api/v1/query?{asked}")["result"]]


def health(base: str) -> set[str]:
    groups = get(f"{base}/api/v1/rules")["groups"]
    return {rule["health"] for group in groups for rule in group["rules"]}


def until(ask: Callable[[], Any], wanted: Any) -> None:
    deadline = time.monotonic() + 60
    while (found := ask()) != wanted:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
