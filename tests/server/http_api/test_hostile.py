"""Requests that are wrong or meant badly: each has its status, and no memory changes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from gateway import Gateway, ServeHttp, assistant, user
from hostile import HELLO, error_of

JSON = {"content-type": "application/json"}


@pytest.fixture
async def unchanged(gateway: Gateway) -> AsyncIterator[Gateway]:
    """A server whose session must be what it was at the end of the test."""
    before = await gateway.api.get()
    yield gateway
    assert await gateway.api.get() == before


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": [HELLO, assistant("Hi")]}, "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    ({"messages": [HELLO, {"role": "user", "content": [{"type": "text", "text": "x"}, {}]}]},
     "messages[1].content[1]"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
     "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
    ({"messages": "Hello"}, "messages"),
    ({"n": 2}, "n"),
    ({"best_of": 3}, "best_of"),
    ({"stop": ["x"] * 33}, "stop"),
    ({"presence_penalty": 0.5}, "presence_penalty"),
    ({"frequency_penalty": -1}, "frequency_penalty"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"logit_bias": {"5": 1}}, "logit_bias"),
    ({"audio": {"voice": "x"}}, "audio"),
    ({"prediction": {"type": "content"}}, "prediction"),
    ({"temperature": 3}, "temperature"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_completion_tokens": -1}, "max_tokens"),
    ({"max_completion_tokens": 0, "max_tokens": None}, "max_tokens"),
    ({"hope": {"sesion": "x"}}, "hope.sesion"),
    ({"hope": {"session": "../other"}}, "hope.session"),
    ({"hope": {"at_version": 1}}, "hope.at_version"),
    ({"hope": {"learn": True, "ephemeral": True}}, "hope.learn"),
    ({"stream": True, "max_tokens": "many"}, "max_tokens"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "param"), REFUSED)
async def test_what_would_change_the_answer_is_refused(
    unchanged: Gateway, change: dict[str, Any], param: str
) -> None:
    response = await unchanged.post(unchanged.body(HELLO) | change)
    assert response.status_code == 400
    error = error_of(response)
    assert (error["type"], error["param"]) == ("invalid_request_error", param), error


async def test_what_does_not_matter_is_ignored(gateway: Gateway) -> None:
    await gateway.chat(
        {"role": "developer", "content": "Be brief."},
        {"role": "system", "content": None},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}], "name": "ada"},
        {"role": "assistant", "content": None, "tool_calls": []},
        user("Are you there?"),
        n=1,
        presence_penalty=0,
        frequency_penalty=None,
        tools=[{"type": "function", "function": {"name": "f"}}],
        tool_choice="auto",
        response_format={"type": "text"},
        safety_identifier="x",
        service_tier="auto",
        logit_bias={},
        stop=["x"] * 32,
        unknown={"field": [1]},
    )


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/embeddings", 404),
        ("/v1/chat/completions/", 404),
        ("/console", 404),
        ("/console/", 404),
        ("/console/..%2Fapp.py", 404),
        ("/console/%2e%2e/pages.py", 404),
        ("/v1/models/gpt-4", 404),
        ("/v1/models/hope/nobody", 404),
        ("/v1/models/hope/..%2Fother", 404),
        ("/v1/chat/completions", 405),
    ],
)
async def test_routes_that_there_are_not(unchanged: Gateway, path: str, status: int) -> None:
    response = await unchanged.client.get(path, follow_redirects=False)
    assert response.status_code == status
    error_of(response)


@pytest.mark.parametrize(
    "model", ["hope/../other", "hope/", "hope/a/b", "hope/nobody", "HOPE", "", "hope/" + "x" * 65]
)
async def test_models_that_there_are_not(unchanged: Gateway, model: str) -> None:
    response = await unchanged.post(unchanged.body(HELLO, model=model))
    assert response.status_code == 404
    assert error_of(response)["code"] == "model_not_found"


async def test_bodies_that_are_none(unchanged: Gateway) -> None:
    async def status(content: bytes, headers: dict[str, str] = JSON) -> int:
        response = await unchanged.client.post(
            "/v1/chat/completions", content=content, headers=headers
        )
        error_of(response)
        return response.status_code

    whole = json.dumps(unchanged.body(HELLO)).encode()
    assert await status(whole[:-1]) == 400
    assert await status(b"") == 400
    assert await status(b"[" * 100_000) == 400
    assert await status(whole.replace(b"Hello", b"\\ud800")) == 400
    assert await status(whole.replace(b"Hello", b"\xed\xa0\x80")) == 400
    assert await status(whole, {"content-type": "text/plain"}) == 415
    assert await status(whole, {"content-type": "multipart/form-data; boundary=x"}) == 415
    assert await status(whole, {}) == 415
    assert await status(b'{"messages": "' + b"x" * (10 << 20) + b'"}') == 413


async def test_pages_of_other_sites(unchanged: Gateway) -> None:
    body = unchanged.body(HELLO)
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
        response = await unchanged.post(body, origin=origin)
        assert response.status_code == 403
        assert error_of(response)["code"] == "foreign_origin"
        assert "access-control-allow-origin" not in response.headers
    for host in ("evil.example", "evil.example:8080", "127.0.0.1.evil.example"):
        response = await unchanged.post(body, host=host)
        assert response.status_code == 403
        assert error_of(response)["code"] == "foreign_host"
    response = await unchanged.client.options(
        "/v1/chat/completions",
        headers={"origin": "https://evil.example", "access-control-request-method": "POST"},
    )
    assert "access-control-allow-origin" not in response.headers


async def test_own_pages_and_those_that_are_allowed(serve_http: ServeHttp) -> None:
    friend = "https://chat.example.org"
    async with serve_http(http_cors_origins=f"{friend}, http://b", http_hosts="mine") as gateway:
        body = gateway.body(HELLO, model="chat")
        assert (await gateway.post(body, origin=gateway.url)).status_code == 200
        allowed = await gateway.post(body, origin=friend, host="mine:8080")
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == friend
        preflight = await gateway.client.options(
            "/v1/chat/completions",
            headers={
                "origin": friend,
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization,content-type",
            },
        )
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == friend


async def test_foreign_names_become_names_of_ours(gateway: Gateway) -> None:
    for name in ("../other", "a b", "x" * 100, "é"):
        answer = await gateway.chat(HELLO, model="hope", user=name)
        session = answer["hope"]["session"].removeprefix("users/local/sessions/")
        assert session.startswith("x-")
        assert len(session) == 54
    answer = await gateway.chat(HELLO, model="hope", user="ada-1")
    assert answer["hope"]["session"] == "users/local/sessions/ada-1"
    named = await gateway.chat(HELLO, hope={"conversation": "tür\n" * 40})
    assert named["hope"]["conversation"].startswith("x-")
    header = await gateway.post(gateway.body(HELLO, hope={"conversation": "tür\r\nx: y"}))
    assert header.headers["hope-conversation"] == "t%C3%BCr%0D%0Ax: y"
