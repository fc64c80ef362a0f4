"""Turns that wait, fail late, or whose client goes away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from gateway import Gateway, ServeHttp, events, user
from starlette.types import Send

from server.app.events import GenerateEvent, TextDelta
from server.http_api import answer
from server.store.base import SessionKey

KEY = SessionKey("local", "diary")
RESPONSES = "/v1/responses"
HELLO = user("Hello, my dog is called Rolf.")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(answer, "COMMENT_SECONDS", 0.1)


@asynccontextmanager
async def asking(gateway: Gateway, path: str) -> AsyncIterator[AsyncIterator[str]]:
    """The parts of a stream that has begun, while the session is held by somebody else."""
    body = gateway.body(HELLO, stream=True)
    if path == RESPONSES:
        body["input"] = body.pop("messages")
    async with gateway.client.stream("POST", path, json=body) as response:
        assert response.status_code == 200
        yield response.aiter_text()


async def until(parts: AsyncIterator[str], text: str) -> str:
    """What was read up to `text`."""
    seen = ""
    async for part in parts:
        seen += part
        if text in seen:
            return seen
    raise AssertionError(f"the stream ended: {seen}")


async def test_who_waits_long_gets_comments(gateway: Gateway) -> None:
    async with asyncio.timeout(30), asking_while_held(gateway) as (parts, release):
        seen = await until(parts, ": waiting\n\n: waiting\n\n")
        role = json.loads(seen.split("\n\n")[0].removeprefix("data: "))
        assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        release.set()
        seen += "".join([part async for part in parts])
    chunks = events(seen)
    assert len([chunk for chunk in chunks if "role" in chunk["choices"][0]["delta"]]) == 1
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert chunks[-1]["hope"]["learnable_tokens"] > 0
    assert ": ping" not in seen


async def test_an_error_after_the_start_is_an_event(gateway: Gateway) -> None:
    sessions = gateway.served.running.sessions
    async with asyncio.timeout(30), asking_while_held(gateway) as (parts, release):
        await until(parts, ": waiting")
        sessions.draining = True
        release.set()
        rest = "".join([part async for part in parts])
    *_, last, nothing = rest.split("\n\n")
    assert nothing == ""
    error = json.loads(last.removeprefix("data: "))["error"]
    assert error["code"] == "draining"
    assert "[DONE]" not in rest


@asynccontextmanager
async def asking_while_held(
    gateway: Gateway, path: str = "/v1/chat/completions"
) -> AsyncIterator[tuple[AsyncIterator[str], asyncio.Event]]:
    """A stream that waits for a session which is held until the event is set."""
    sessions, release, held = gateway.served.running.sessions, asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with sessions.exclusive(KEY):
            held.set()
            await release.wait()

    holding = asyncio.create_task(hold())
    await held.wait()
    try:
        async with asking(gateway, path) as parts:
            yield parts, release
    finally:
        release.set()
        await holding


async def test_a_response_begins_with_its_turn(gateway: Gateway) -> None:
    """Its first event has the id, which depends on what the session holds."""
    async with asyncio.timeout(30), asking_while_held(gateway, RESPONSES) as (parts, release):
        seen = await until(parts, ": waiting\n\n: waiting\n\n")
        assert "event:" not in seen
        release.set()
        seen = "".join([part async for part in parts])
    names = [line for line in seen.splitlines() if line.startswith("event:")]
    assert names[0] == "event: response.created"
    assert names.count(names[0]) == 1
    assert names[-1] in ("event: response.completed", "event: response.incomplete")


async def test_a_response_that_fails_says_so(gateway: Gateway) -> None:
    sessions = gateway.served.running.sessions
    async with asyncio.timeout(30), asking_while_held(gateway, RESPONSES) as (parts, release):
        await until(parts, ": waiting")
        sessions.draining = True
        release.set()
        rest = "".join([part async for part in parts])
    *_, last, nothing = rest.split("\n\n")
    assert nothing == ""
    name, data = last.split("\n")
    assert name == "event: response.failed"
    response = json.loads(data.removeprefix("data: "))["response"]
    assert response["status"] == "failed"
    assert response["error"]["code"] == "draining"
    assert response["output"] == []


async def test_who_leaves_before_the_first_text_leaves_no_trace(gateway: Gateway) -> None:
    before = await gateway.api.get()
    async with asyncio.timeout(30):
        async with asking_while_held(gateway) as (parts, _):
            await until(parts, ": waiting")
        # The stream is closed, then the session is free.
        await asyncio.sleep(0.2)
    assert await gateway.api.get() == before
    answered = await gateway.chat(HELLO)
    assert answered["hope"]["learnable_tokens"] > 0


async def test_an_answer_at_once_is_kept_when_its_client_leaves(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client repeats the request, and then gets the whole reply."""
    said, take = asyncio.Event(), answer.Answer._take

    async def watched(self: answer.Answer, event: GenerateEvent, send: Send) -> bool:
        if isinstance(event, TextDelta):
            said.set()
        return await take(self, event, send)

    monkeypatch.setattr(answer.Answer, "_take", watched)
    body = gateway.body(HELLO, max_tokens=120)
    async with asyncio.timeout(30):
        asked = asyncio.create_task(gateway.post(body, x_stainless_retry_count="0"))
        await said.wait()
        asked.cancel()
        await asyncio.wait([asked])
        again = (await gateway.post(body, x_stainless_retry_count="1")).json()
    assert again["hope"]["replayed"]
    assert again["usage"]["completion_tokens"] == 120
    assert (await gateway.api.get()).log_records == 1


async def test_an_answer_beside_learning_says_so(serve_http: ServeHttp) -> None:
    async with serve_http(learning_wait_seconds=0.0) as gateway:
        await gateway.api.create()
        first = await gateway.chat(HELLO)
        # Another conversation makes what is pending due.
        second = await gateway.chat(user("Hello."), hope={"conversation": "other"})
        assert not first["hope"]["learning"]
        assert second["hope"]["learning"]
        assert second["hope"]["memory_version"] == first["hope"]["memory_version"]


async def test_health_tells_of_a_lost_store(serve_http: ServeHttp, tmp_path: Path) -> None:
    database = tmp_path / "folder" / "sessions.db"
    async with serve_http(database=database) as gateway:
        await gateway.api.create()
        database.rename(tmp_path / "elsewhere")
        body = gateway.body(HELLO)
        response = await gateway.post(body)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "store_lost")
        health = await gateway.client.get("/health")
        assert (health.status_code, health.json()) == (503, {"status": "store lost"})
