"""The log as JSON: a line for every request, and in none of them a name or a word of a user."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from api import Api, refused, secrets_in
from grpc import aio
from serving import Serve, Served, connect

from server.store.base import NotFoundError, SessionKey
from server.telemetry.logs import JsonFormatter, session_tag

SECRETS = ("ada", "diary", "Rolf", "Tern", "booklet", "hush", "sessions/", "not-a-session")
TEXT = "My dog Rolf swims in the river Tern."


class Lines(io.StringIO):
    def parsed(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]

    def requests(self) -> list[dict[str, Any]]:
        return [line for line in self.parsed() if line["logger"] == "server.requests"]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """All that the process logs meanwhile."""
    stream, root = Lines(), logging.getLogger()
    handler, level = logging.StreamHandler(stream), root.level
    handler.setFormatter(JsonFormatter())
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


async def everything(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests of every kind and end."""
    api = served.api
    await api.create()
    await api.say(TEXT)
    await api.ingest([TEXT.encode() * 9], document="booklet")
    await api.score(TEXT)
    await api.end_conversation()
    async with refused(grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND"):
        await api.on("hush").say(TEXT)
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "sampling.top_p"):
        await api.say(TEXT, top_p=9)
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "session"):
        await Api(api.channel, "not-a-session").say(TEXT)

    def broken(*_: object) -> None:
        raise KeyError(TEXT)

    with monkeypatch.context() as patched:
        patched.setattr(served.running.sessions.engine, "score", broken)
        with pytest.raises(aio.AioRpcError):
            await api.score(TEXT)


async def test_every_request_has_a_line_and_no_line_has_a_secret(
    serve: Serve, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(log_format="json") as served:
        await everything(served, monkeypatch)
        mine = session_tag(served.api.name)
    written = lines.getvalue()
    assert secrets_in(written, SECRETS) == []
    found = [(line["method"], line["code"]) for line in lines.requests()]
    assert found == [
        ("CreateSession", "OK"),
        ("Generate", "OK"),
        ("Ingest", "OK"),
        ("Score", "OK"),
        ("EndConversation", "OK"),
        ("Generate", "NOT_FOUND"),
        ("Generate", "INVALID_ARGUMENT"),
        ("Generate", "INVALID_ARGUMENT"),
        ("Score", "INTERNAL"),
    ]
    requests = lines.requests()
    assert len({line["request"] for line in requests}) == len(requests)
    assert all(line["seconds"] > 0 and line["level"] == "info" for line in requests)
    tags = [line.get("session") for line in requests]
    # Also a session that is only made has a name by then; what is no name has no tag.
    other = session_tag(served.api.on("hush").name)
    assert tags == [None, *[mine] * 4, other, mine, None, mine]
    versions = [line.get("version") for line in requests]
    assert versions[4] > 0
    assert versions[5:] == [None] * 4


async def test_an_unexpected_error_is_found_by_the_number_that_the_caller_got(
    serve: Serve, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError(TEXT)

    async with serve(log_format="json") as served:
        await served.api.create()
        monkeypatch.setattr(served.running.sessions.engine, "score", broken)
        with pytest.raises(aio.AioRpcError) as caught:
            await served.api.score(TEXT)
    number = str(caught.value.details()).split()[-1].rstrip(".")
    error, request = (line for line in lines.parsed() if line.get("request") == number)
    assert (error["level"], error["exception"]) == ("error", "KeyError")
    assert error["raised_at"][-1].startswith("test_logs.py:")
    assert request["code"] == "INTERNAL"


async def test_a_caller_that_goes_away_is_logged(serve: Serve, lines: Lines) -> None:
    async with serve(log_format="json") as served:
        await served.api.create()
        call = served.api.inference.Generate(served.api.asking(TEXT, max_tokens=200))
        await call.read()
        call.cancel()
        async with connect(served.running.port) as channel:  # until the handler has ended
            while not [line for line in lines.requests() if line["method"] == "Generate"]:
                await Api(channel).get()
    line = next(line for line in lines.requests() if line["method"] == "Generate")
    assert line["code"] == "CANCELLED"


async def test_text_has_no_lines_of_requests(serve: Serve, lines: Lines) -> None:
    async with serve() as served:
        await served.api.create()
    assert lines.requests() == []


def test_an_exception_in_a_message_is_its_type(lines: Lines) -> None:
    error = NotFoundError(f"session {SessionKey('ada', 'diary')} does not exist")
    logging.getLogger("server.app.sessions").warning("upkeep of a session failed: %s", error)
    (line,) = lines.parsed()
    assert line["message"] == "upkeep of a session failed: NotFoundError"
    assert line["time"].endswith("Z")


async def test_openmetrics_leads_from_a_bucket_to_the_session(serve: Serve) -> None:
    async with serve(metrics_port=0) as served:
        await served.api.create()
        await served.api.say(TEXT)
        text = await asyncio.to_thread(_openmetrics, served)
        tag = session_tag(served.api.name)
    # One bucket of each; the library's own parser refuses buckets below 0, which probes have.
    exemplars = re.findall(
        r'^(\w+)_bucket\{.* # \{session="(\w+)"\} [0-9.e-]+ [0-9.]+$', text, re.M
    )
    assert exemplars == [
        (f"hope_{name}_seconds", tag)
        for name in (
            "time_to_first_token",
            "e2e_request_latency",
            "request_queue_time",
            "request_prefill_time",
            "request_decode_time",
        )
    ]
    assert "diary" not in text


def _openmetrics(served: Served) -> str:
    url = f"http://127.0.0.1:{served.running.metrics_port}/metrics"
    asked = urllib.request.Request(url, headers={"Accept": "application/openmetrics-text"})
    with urllib.request.urlopen(asked, timeout=10) as response:
        return str(response.read(), "utf-8")
