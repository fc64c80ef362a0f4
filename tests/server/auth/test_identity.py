"""Who callers are, on real connections: tokens, certificates, what is refused and never logged."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from api import Api, refusal_of, refused
from credentials import (
    Authority,
    bearer,
    claims,
    jwk,
    jwks_file,
    rsa_key,
    shared_key_file,
    token,
)
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hope.v1 import sessions_pb2 as pb
from hope_client import HopeClient, NotFoundError, UnauthenticatedError
from serving import Serve

from server.telemetry.logs import FIELDS, session_tag

MINE = pb.ListSessionsRequest(parent="users/ada")


async def unauthenticated(api: Api, metadata: Any) -> str:
    with pytest.raises(aio.AioRpcError) as caught:
        await api.sessions.ListSessions(MINE, metadata=metadata)
    refusal = refusal_of(caught.value)
    assert (refusal.code, refusal.reason) == (
        grpc.StatusCode.UNAUTHENTICATED,
        "UNAUTHENTICATED",
    )
    return refusal.message


async def test_only_a_valid_token_comes_in_and_none_is_logged(
    serve: Serve,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    refused = {
        "expired": token(exp=int(time.time()) - 60),
        "audience": token(aud="another"),
        "not valid": token(key=b"x" * 32),
        "longer": token(padding="x" * 5000),
    }
    async with serve(token_key_file=shared_key_file(tmp_path)) as served:
        api = served.api
        for words, value in refused.items():
            assert words in await unauthenticated(api, bearer(value))
        good = token()
        for metadata in ((), (("authorization", good),), (("authorization", f"Basic {good}"),)):
            await unauthenticated(api, metadata)
        await unauthenticated(api, bearer(good) + bearer(good))
        assert not (await api.sessions.ListSessions(MINE, metadata=bearer(good))).sessions
        # Probes have no token.
        health = health_pb2_grpc.HealthStub(api.channel)
        status = (await health.Check(health_pb2.HealthCheckRequest())).status
        assert status == health_pb2.HealthCheckResponse.SERVING
    output = caplog.text + "".join(capfd.readouterr())
    for value in (*refused.values(), good):
        assert value not in output
        assert value.rpartition(".")[2] not in output


async def test_the_client_carries_tokens_and_reads_them_anew(serve: Serve, tmp_path: Path) -> None:
    async with serve(token_key_file=shared_key_file(tmp_path)) as served:
        target = f"127.0.0.1:{served.running.port}"
        tokens = [token(exp=int(time.time()) - 60), token()]
        async with HopeClient(target, user="ada", token=lambda: tokens[-1]) as client:
            await client.sessions.create("diary", policy="quick")
            assert (await client.say("diary", "Hello.")).usage.output_tokens
            await client.ingest("diary", "A text.", document="book")
            tokens.pop()
            with pytest.raises(UnauthenticatedError, match="expired"):
                await client.say("diary", "Hello.")
        async with HopeClient(target, user="ada") as client:
            with pytest.raises(UnauthenticatedError, match="bearer token"):
                await client.sessions.get("diary")


@pytest.mark.parametrize(
    "target", ["example.org:50051", "10.0.0.1:1", "127.example.org:1", "[::2]:1"]
)
async def test_the_client_sends_no_token_in_clear_text_to_others(target: str) -> None:
    with pytest.raises(ValueError, match="TLS"):
        HopeClient(target, token="secret")
    client = HopeClient(target, token="secret", credentials=grpc.ssl_channel_credentials())
    await client.close()


async def test_the_certificate_names_the_user(serve: Serve, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other")
    async with serve(**authority.settings, tls_client_ca_file=authority.ca_file) as served:
        target = f"127.0.0.1:{served.running.port}"

        def client(leaf: Any, user: str) -> HopeClient:
            chain = b"".join(each.bytes() for each in leaf.cert_chain_pems)
            key = leaf.private_key_pem.bytes()
            credentials = grpc.ssl_channel_credentials(authority.root, key, chain)
            return HopeClient(target, user=user, credentials=credentials, timeout_seconds=30)

        async with client(authority.client("ada"), "ada") as ada:
            await ada.sessions.create("diary", policy="quick")
        async with client(authority.client("bob"), "ada") as bob:
            with pytest.raises(
                NotFoundError, match="Session users/ada/sessions/diary does not exist"
            ):
                await bob.sessions.get("diary")
        async with client(authority.client("ada|b c"), "@me") as odd:
            with pytest.raises(NotFoundError, match="ada%7Cb%20c/sessions/diary"):
                await odd.sessions.get("diary")
        # Another authority's certificate, or none, does not even get a connection.
        anonymous = grpc.ssl_channel_credentials(authority.root)
        own = stranger.client("ada")
        for channel_credentials in (
            anonymous,
            grpc.ssl_channel_credentials(
                authority.root, own.private_key_pem.bytes(), own.cert_chain_pems[0].bytes()
            ),
        ):
            async with aio.secure_channel(target, channel_credentials) as channel:
                with pytest.raises(aio.AioRpcError) as caught:
                    await Api(channel).sessions.ListSessions(MINE, timeout=10)
                assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("subject", "user"),
    [
        ("ada", "ada"),
        ("auth0|5f7c8ec7c33c6c004bbafe82", "auth0%7C5f7c8ec7c33c6c004bbafe82"),
        ("ada@example.com", "ada%40example.com"),
        ("system:serviceaccount:default:bot", "system%3Aserviceaccount%3Adefault%3Abot"),
    ],
)
async def test_a_token_names_its_user_by_any_subject(
    serve: Serve, tmp_path: Path, subject: str, user: str
) -> None:
    """Under its own name and under users/@me: one user, and nobody else."""
    rsa = rsa_key()
    encryption = jwk(rsa_key(), kid="enc", use="enc", alg="RSA-OAEP")
    keys = jwks_file(tmp_path, encryption, jwk(rsa, kid="sig", use="sig", alg="RS256"))

    def signed(subject: str) -> str:
        return jwt.encode(claims(subject), rsa, algorithm="RS256", headers={"kid": "sig"})

    async with serve(token_jwks_file=keys, log_format="json") as served:
        target = f"127.0.0.1:{served.running.port}"
        async with HopeClient(target, user="@me", token=signed(subject)) as client:
            assert [each async for each in client.sessions.list()] == []
            created = await client.sessions.create("diary", policy="quick")
            assert created.name == f"users/{user}/sessions/diary"
            assert (await client.say("diary", "Hello.")).usage.output_tokens
            assert (await client.sessions.get(created.name)).name == created.name
            assert [each.name async for each in client.sessions.list()] == [created.name]
            copy = await client.sessions.fork("diary", "copy")
            assert copy.name == f"users/{user}/sessions/copy"
            await client.sessions.delete("copy")
        # The command line takes the user from the token, whatever --user says.
        token_file = tmp_path / "token"
        token_file.write_text(signed(subject))
        listed = await hope(target, "--token-file", str(token_file), "--user", "bob", "list")
        assert "diary" in listed
        async with HopeClient(target, user="@me", token=signed(f"{subject}x")) as other:
            assert [each async for each in other.sessions.list()] == []
            with pytest.raises(NotFoundError):
                await other.sessions.get(created.name)
        async with HopeClient(target, user="@me", token=signed(subject)) as client:
            assert await client.sessions.delete_user() == 1


async def hope(target: str, *arguments: str) -> str:
    """What `hope sessions` prints on this server; asserts that it succeeds."""
    *options, action = arguments
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from hope_client.cli import main; raise SystemExit(main())",
        *("--server", target, *options, "sessions", action),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def test_the_log_tags_me_like_the_name_in_full(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "server.requests")
    name = "users/ada/sessions/diary"
    async with serve(token_key_file=shared_key_file(tmp_path), log_format="json") as served:
        target = f"127.0.0.1:{served.running.port}"
        async with HopeClient(target, user="@me", token=token()) as client:
            await client.sessions.create("diary", policy="quick")
            await client.say("diary", "Hello.")
            await client.say(name, "Hello again.")
            await client.sessions.get("diary")
    lines = [getattr(each, FIELDS) for each in caplog.records if each.name == "server.requests"]
    tags = [line["session"] for line in lines if line["method"] in ("Generate", "GetSession")]
    assert tags == [session_tag(name)] * 3


async def test_me_is_nobody_without_credentials(api: Api) -> None:
    for name in ("users/@me/sessions/diary", "users/@me/sessions/none"):
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "name"):
            await api.sessions.GetSession(pb.GetSessionRequest(name=name))
    async with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "parent"):
        await api.sessions.ListSessions(pb.ListSessionsRequest(parent="users/@me"))


async def test_another_claim_names_the_user_on_the_wire(serve: Serve, tmp_path: Path) -> None:
    settings = {"token_key_file": shared_key_file(tmp_path), "token_user_claim": "email"}
    async with serve(**settings) as served:
        target = f"127.0.0.1:{served.running.port}"
        value = token("7", email="ada@example.com")
        async with HopeClient(target, user="@me", token=value) as client:
            created = await client.sessions.create("diary")
            assert created.name == "users/ada%40example.com/sessions/diary"
        assert "not valid" in await unauthenticated(served.api, bearer(token("7")))


async def test_tokens_travel_by_tls_from_everywhere(serve: Serve, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    settings = authority.settings | {"token_key_file": shared_key_file(tmp_path)}
    async with serve(host="0.0.0.0", **settings) as served:
        credentials = grpc.ssl_channel_credentials(authority.root)
        target = f"127.0.0.1:{served.running.port}"
        async with HopeClient(target, user="ada", credentials=credentials, token=token()) as client:
            assert [each async for each in client.sessions.list()] == []
