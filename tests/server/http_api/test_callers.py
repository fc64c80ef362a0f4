"""Callers of the HTTP gateway: whom their keys name, and what they may take."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import pytest
from credentials import bearer, shared_key_file, token
from gateway import ServeHttp, user
from hope.v1 import sessions_pb2 as pb
from hostile import HELLO, error_of

from server.auth.api_keys import read_api_keys
from server.crypto.files import KeyFileError
from server.telemetry.logs import JsonFormatter


async def test_callers_are_whom_their_credentials_name(
    serve_http: ServeHttp, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    digest = hashlib.sha256(b"key-of-bob").hexdigest()
    keys.write_text(f"# people\n{digest} bob@example.com\n")
    async with serve_http(api_key_file=keys, token_key_file=shared_key_file(tmp_path)) as gateway:
        body = gateway.body(HELLO, model="hope", hope={"session": "diary"}, user="carol")

        async def owner(**headers: str) -> str:
            response = await gateway.post(body, **headers)
            if response.status_code == 401:
                error = error_of(response)
                assert error["type"] == "authentication_error"
                return str(error["code"])
            return str(response.json()["hope"]["session"])

        assert await owner() == "invalid_api_key"
        assert await owner(authorization="Bearer wrong") == "invalid_api_key"
        assert await owner(x_api_key="wrong") == "invalid_api_key"
        assert await owner(authorization=f"Bearer {token('ada')}") == "users/ada/sessions/diary"
        provided = f"Bearer {token('auth0|5f7c')}"
        assert await owner(authorization=provided) == "users/auth0%7C5f7c/sessions/diary"
        for header in ("x_api_key", "api_key"):
            assert await owner(**{header: "key-of-bob"}) == "users/bob%40example.com/sessions/diary"
        assert (
            await owner(authorization="Bearer key-of-bob")
            == "users/bob%40example.com/sessions/diary"
        )
        # No other host can be made up: credentials are asked for. Probes have none.
        assert await owner(host="evil.example") == "invalid_api_key"
        assert (await gateway.client.get("/health")).json() == {"status": "ok"}
        models = await gateway.client.get("/v1/models", headers={"api-key": "key-of-bob"})
        assert [each["id"] for each in models.json()["data"]] == ["chat", "hope", "hope/diary"]
        # gRPC takes the same keys.
        key = bearer("key-of-bob")
        bobs = gateway.api
        found = await bobs.sessions.ListSessions(
            pb.ListSessionsRequest(parent="users/bob%40example.com"), metadata=key
        )
        assert [each.name for each in found.sessions] == ["users/bob%40example.com/sessions/diary"]


@pytest.mark.parametrize(
    "text", ["", "# none\n", "abc ada\n", f"{'0' * 64}\n", f"{'0' * 64} {'a' * 257}\n",
             f"{'0' * 64} ada\n{'0' * 64} bob\n"]
)  # fmt: skip
def test_files_of_keys_that_cannot_be_used(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(KeyFileError, match=str(path)):
        read_api_keys(path)


async def test_quotas_and_draining(serve_http: ServeHttp) -> None:
    async with serve_http(user_quota_sessions=1, user_quota_tokens_per_minute=1) as gateway:
        await gateway.api.create()
        sessions = await gateway.post(gateway.body(HELLO, model="hope", user="second"))
        assert sessions.status_code == 429
        assert error_of(sessions)["code"] == "insufficient_quota"
        assert sessions.headers["x-should-retry"] == "false"
        await gateway.chat(user("My dog is called Rolf, and he likes cheese. " * 4))
        tokens = await gateway.post(gateway.body(user("He is nine years old."), stream=True))
        assert tokens.status_code == 429
        assert error_of(tokens)["type"] == "rate_limit_error"
        assert int(tokens.headers["retry-after"]) >= 1
        assert int(tokens.headers["retry-after-ms"]) >= 1000
        gateway.served.running.sessions.draining = True
        for body in (gateway.body(HELLO), gateway.body(HELLO, model="chat")):
            draining = await gateway.post(body)
            assert draining.status_code == 503
            assert error_of(draining)["code"] == "draining"
            assert draining.headers["retry-after"] == "5"
        assert (await gateway.client.get("/health")).status_code == 503


async def test_requests_are_counted_and_logged_without_names(
    serve_http: ServeHttp, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "server.requests")
    async with serve_http(log_format="json") as gateway:
        await gateway.api.create()
        await gateway.chat(user("A secret."), headers={"hope-conversation": "hidden"})
        await gateway.post(gateway.body())
        await gateway.client.get("/v1/models/hope/diary")
        await gateway.client.get("/health")
        metrics = gateway.served.running.sessions.metrics
        for outcome in ("ok", "refused"):
            assert metrics.requests.labels("generate", outcome)._value.get() == 1
    lines = [
        JsonFormatter().format(record)
        for record in caplog.records
        if record.name == "server.requests" and "/" in record.getMessage()
    ]
    shown = [(line["method"], line["code"]) for line in map(json.loads, lines)]
    assert shown == [
        ("POST /v1/chat/completions", 200),
        ("POST /v1/chat/completions", 400),
        ("GET /v1/models/{model}", 200),
    ]
    assert not any(word in line for line in lines for word in ("secret", "hidden", "diary"))
