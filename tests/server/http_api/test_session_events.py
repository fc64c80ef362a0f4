"""A session watched over HTTP: its events, its versions, and the switch of its learning."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from gateway import Gateway, ServeHttp, user

ONE = "/v1/sessions/diary"
FACTS = "My dog is called Rolf, and he likes cheese and rain. " * 3
Told = tuple[str, int | None, dict[str, Any]]


async def events_of(gateway: Gateway, after: int | None = None) -> AsyncIterator[Told]:
    """Name, number and data of the session's events; the caller stops."""
    headers = {} if after is None else {"last-event-id": str(after)}
    async with gateway.client.stream("GET", f"{ONE}/events", headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        fields: dict[str, str] = {}
        async for line in response.aiter_lines():
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "event" in fields:
                number = int(fields["id"]) if "id" in fields else None
                yield fields["event"], number, json.loads(fields["data"])
                fields = {}


async def until(gateway: Gateway, last: str, after: int | None = None) -> list[Told]:
    """The events up to the first of this name."""
    found = []
    async with aclosing(events_of(gateway, after)) as events:  # type: ignore[type-var]
        async for event in events:
            found.append(event)
            if event[0] == last:
                break
    return found


async def test_turns_and_learning_are_told(gateway: Gateway) -> None:
    async def teach() -> None:
        await gateway.chat(user(FACTS))
        await gateway.client.post(f"{ONE}/consolidate", json={})

    teaching = asyncio.create_task(teach())
    told = await asyncio.wait_for(until(gateway, "consolidation"), 60)
    await teaching
    assert told[0][0] == "hello"
    turn = next(data for name, _, data in told if name == "turn")
    first, reply = turn["said"]
    assert (first["speaker"], first["text"], first["learn"]) == ("user", FACTS, True)
    assert (reply["speaker"], reply["learn"]) == ("assistant", False)
    assert turn["learnable_tokens"] > 0
    learnt = told[-1][2]
    assert learnt["memory_version"] == 1
    assert learnt["surprise_before_nats"] > 0
    assert learnt["drift"]["relative_norm"] > 0
    numbers = [number for _, number, _ in told if number is not None]
    assert numbers == sorted(set(numbers))


async def test_learning_says_how_far_it_is(serve_http: ServeHttp) -> None:
    async with serve_http() as gateway:
        await gateway.api.create(policy="default")
        await gateway.chat(user("My dog is called Rolf."))
        learning = asyncio.create_task(gateway.client.post(f"{ONE}/consolidate", json={}))
        told = await asyncio.wait_for(until(gateway, "consolidation"), 120)
        await learning
    shares = [data["fraction"] for name, _, data in told if name == "learning"]
    known = [share for share in shares if share is not None]
    assert known == sorted(known)
    assert any(0 < share < 1 for share in known)


async def test_a_watcher_goes_on_where_it_was(gateway: Gateway) -> None:
    await gateway.chat(user("One."))
    first = await until(gateway, "turn")
    number = first[-1][1]
    assert number is not None
    await gateway.chat(user("Two."), hope={"conversation": "other"})
    told = await until(gateway, "turn", after=number)
    texts = [said["text"] for name, _, data in told if name == "turn" for said in data["said"]]
    assert "Two." in texts
    assert "One." not in texts


async def test_what_taught_nothing_is_told_as_such(gateway: Gateway) -> None:
    await gateway.chat(user("Hello"), hope={"learn": False})
    told = await until(gateway, "turn")
    assert told[-1][2]["learnable_tokens"] == 0


async def test_a_watcher_does_not_hold_the_server_up(serve_http: ServeHttp) -> None:
    async with serve_http() as gateway:
        await gateway.api.create()
        async with aclosing(events_of(gateway)) as events:  # type: ignore[type-var]
            await anext(events)
            assert gateway.served.running.http is not None
            async with asyncio.timeout(30):
                await gateway.served.running.sessions.drain(1)
                rest = [event async for event in events]
        assert all(name in ("changed", "idle") for name, _, _ in rest)


async def test_versions_and_the_snapshots_that_name_them(gateway: Gateway) -> None:
    await gateway.chat(user(FACTS))
    await gateway.client.post(f"{ONE}/consolidate", json={})
    await gateway.client.post(f"{ONE}/snapshots", json={"snapshot_id": "early"})
    found = (await gateway.client.get(f"{ONE}/versions")).json()["versions"]
    assert [each["version"] for each in found] == list(range(len(found)))
    assert found[0]["parent_version"] is None
    assert found[-1]["parent_version"] == found[-2]["version"]
    assert found[-1]["snapshots"] == ["early"]
    assert found[0]["create_time"] <= found[-1]["create_time"]


async def test_learning_is_switched_off_and_on(gateway: Gateway) -> None:
    async def frozen() -> set[bool]:
        return {level.frozen for level in (await gateway.api.get()).levels}

    for wanted in (True, False):
        response = await gateway.client.post(f"{ONE}/freeze", json={"frozen": wanted})
        assert response.json() == {"name": "users/local/sessions/diary", "frozen": wanted}
        assert await frozen() == {wanted}
    names = [name for name, _, _ in await until(gateway, "unfreeze")]
    assert "freeze" in names


@pytest.mark.parametrize(
    ("verb", "path", "body", "headers", "status", "param"),
    [
        ("GET", "/v1/sessions/nobody/events", None, {}, 404, None),
        ("GET", f"{ONE}/events", None, {"last-event-id": "-1"}, 400, "last-event-id"),
        ("GET", f"{ONE}/events", None, {"last-event-id": "9" * 40}, 400, "last-event-id"),
        ("GET", "/v1/sessions/a%20b/events", None, {}, 400, "session"),
        ("GET", "/v1/sessions/nobody/versions", None, {}, 404, None),
        ("POST", f"{ONE}/freeze", {}, {}, 400, "frozen"),
        ("POST", f"{ONE}/freeze", {"frozen": "yes"}, {}, 400, "frozen"),
        ("POST", f"{ONE}/freeze", [True], {}, 400, None),
        ("POST", "/v1/sessions/nobody/freeze", {"frozen": True}, {}, 404, None),
        ("POST", f"{ONE}/events", {}, {}, 405, None),
    ],
)
async def test_wrong_requests(
    gateway: Gateway,
    verb: str,
    path: str,
    body: Any,
    headers: dict[str, str],
    status: int,
    param: str | None,
) -> None:
    before = await gateway.api.get()
    response = await gateway.client.request(verb, path, json=body, headers=headers)
    assert response.status_code == status, response.text
    assert response.json()["error"]["param"] == param
    assert await gateway.api.get() == before
