"""Several versions of a memory asked the same thing: side by side, and for where a text is from."""

from __future__ import annotations

import json
from typing import Any

import pytest
from gateway import Gateway, user

ONE = "/v1/sessions/diary"
DOG = "My dog is called Rolf, and he likes cheese. "
BOAT = "Ada built a wooden boat in Norway. "


def named(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Name and data of each event of a stream."""
    blocks = [block.split("\n") for block in text.split("\n\n") if block and block[0] != ":"]
    return [
        (name.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
        for name, data in blocks
    ]


async def taught(gateway: Gateway) -> list[int]:
    """A session that learnt of a dog, then of a boat; returns its versions."""
    for conversation, text in (("dogs", DOG), ("boats", BOAT)):
        await gateway.chat(user(text * 4), hope={"conversation": conversation})
        await gateway.client.post(f"{ONE}/consolidate", json={})
    found = (await gateway.client.get(f"{ONE}/versions")).json()["versions"]
    return [each["version"] for each in found]


async def answers(gateway: Gateway, **body: Any) -> dict[str, list[dict[str, Any]]]:
    response = await gateway.client.post(f"{ONE}/compare", json=body)
    assert response.status_code == 200, response.text
    *events, last = named(response.text)
    assert last == ("done", {})
    found: dict[str, list[dict[str, Any]]] = {}
    for name, data in events:
        found.setdefault(name, []).append(data)
    return found


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(each.get("text", "") for each in events)


def chances(events: list[dict[str, Any]]) -> list[float]:
    return [logprob for each in events if "text" in each for _, logprob in each["tokens"]]


async def test_columns_answer_side_by_side_and_leave_nothing(gateway: Gateway) -> None:
    known = await taught(gateway)
    before = await gateway.api.get()
    prompt = "What is my dog called?"
    found = await answers(
        gateway, prompt=prompt, columns=["memory", "base", known[1]], max_tokens=8
    )
    assert set(found) == {"memory", "base", f"v{known[1]}"}
    for name, version in (("memory", known[-1]), ("base", 0), (f"v{known[1]}", known[1])):
        first, *deltas, last = found[name]
        assert first == {"memory_version": version}
        assert last == {"finish_reason": "length", "output_tokens": 8}
        tokens = [token for each in deltas for token in each["tokens"]]
        assert len(tokens) == 8
        assert all(logprob <= 0 for _, logprob in tokens)
    assert await gateway.api.get() == before
    # The base's column is what the model without a memory says.
    alone = await gateway.chat(user(prompt), model="chat", max_tokens=8, temperature=0)
    assert text_of(found["base"]) == alone["choices"][0]["message"]["content"]
    assert chances(found["memory"]) != chances(found["base"])


async def test_a_chat_asks_a_kept_version(gateway: Gateway) -> None:
    known = await taught(gateway)
    before = await gateway.api.get()
    compared = await answers(gateway, prompt="Hello", columns=[known[1]], max_tokens=8)
    answer = await gateway.chat(user("Hello"), hope={"at_version": known[1]}, max_tokens=8)
    assert answer["hope"]["memory_version"] == known[1]
    assert answer["choices"][0]["message"]["content"] == text_of(compared[f"v{known[1]}"])
    base = await gateway.chat(user("Hello"), hope={"at_version": 0}, max_tokens=8)
    alone = await gateway.chat(user("Hello"), model="chat", max_tokens=8)
    assert base["choices"][0]["message"] == alone["choices"][0]["message"]
    assert await gateway.api.get() == before


async def test_when_it_learnt_this(gateway: Gateway) -> None:
    await taught(gateway)
    before = await gateway.api.get()
    for text, conversation in ((DOG, "dogs"), (BOAT, "boats")):
        response = await gateway.client.post(f"{ONE}/origin", json={"text": text.strip()})
        assert response.status_code == 200, response.text
        origin = response.json()
        scores = {each["version"]: each["nats"] for each in origin["scores"]}
        assert scores[origin["learnt_in"]] < scores[origin["before"]]
        best = origin["passages"][0]
        assert (best["text"], best["conversation"]) == (text.strip(), conversation)
    unknown = await gateway.client.post(f"{ONE}/origin", json={"text": "zzzz qqqq"})
    assert unknown.status_code == 200
    assert await gateway.api.get() == before


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("compare", {}, 400, "prompt"),
        ("compare", {"prompt": ""}, 400, "prompt"),
        ("compare", {"prompt": "x", "columns": []}, 400, "columns"),
        ("compare", {"prompt": "x", "columns": ["other"]}, 400, "columns"),
        ("compare", {"prompt": "x", "columns": [-1]}, 400, "columns"),
        ("compare", {"prompt": "x", "columns": [7]}, 400, "columns"),
        ("compare", {"prompt": "x", "columns": [0] * 7}, 400, "columns"),
        ("compare", {"prompt": "x", "max_tokens": 10_000}, 400, "max_tokens"),
        ("compare", {"prompt": "x", "learn": True}, 400, "learn"),
        ("compare", {"prompt": "word " * 2000}, 400, "messages"),
        ("origin", {}, 400, "text"),
        ("origin", {"text": "word " * 2000}, 400, "text"),
        ("origin", {"text": 7}, 400, "text"),
    ],
)
async def test_wrong_requests(
    gateway: Gateway, path: str, body: dict[str, Any], status: int, param: str
) -> None:
    before = await gateway.api.get()
    response = await gateway.client.post(f"{ONE}/{path}", json=body)
    assert response.status_code == status, response.text
    assert response.json()["error"]["param"] == param
    assert (await gateway.client.post(f"/v1/sessions/nobody/{path}", json=body)).status_code in (
        400,
        404,
    )
    assert await gateway.api.get() == before


@pytest.mark.parametrize(
    "options", [{"at_version": 7}, {"at_version": -1}, {"at_version": 0, "learn": True}]
)
async def test_wrong_versions(gateway: Gateway, options: dict[str, Any]) -> None:
    response = await gateway.post(gateway.body(user("x"), hope=options))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "hope.at_version"
    without = await gateway.post(gateway.body(user("x"), model="chat", hope={"at_version": 0}))
    assert without.status_code == 400
