"""Bytes in the store: what a session and a user may take, and what is refused beyond that."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import grpc
import pytest
from api import NAME, USER, Api, refusal_of
from google.rpc import error_details_pb2
from grpc import aio
from grpc_status.rpc_status import from_call
from hope.v1 import sessions_pb2 as pb
from serving import Serve
from told import TEXT

from server.store.base import SessionKey


async def exceeded(call: Awaitable[Any]) -> str:
    """Whose quota the call was refused for."""
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    status = from_call(caught.value)
    assert status is not None
    info, failure = error_details_pb2.ErrorInfo(), error_details_pb2.QuotaFailure()
    assert status.details[0].Unpack(info)
    assert info.reason == "QUOTA_EXCEEDED"
    assert status.details[1].Unpack(failure)
    (violation,) = failure.violations
    assert violation.description == status.message
    return violation.subject


async def filled(api: Api, limit: int) -> pb.Session:
    """The session once it takes that many bytes; no turn before was refused."""
    number = 0
    while (session := await api.get()).stored_bytes < limit:
        await api.ingest([TEXT.encode()], document=str(number))
        number += 1
    return session


async def test_a_full_session_takes_no_turn_and_goes_on_when_there_is_room(serve: Serve) -> None:
    async with serve() as served:
        await served.api.create()
        full = (await filled(served.api, 20_000)).stored_bytes
        assert full > 20_000
        store = served.running.sessions.store
        assert await store.user_bytes("ada") == full
    async with serve(session_quota_bytes=full, keep_versions=1) as served:
        api = served.api
        before = await api.get()
        for call in (
            api.say("Hello."),
            api.ingest([b"More."], document="more"),
            api.ingest([b"More."], document="more", learn=False),
        ):
            assert await exceeded(call) == NAME
        assert await api.get() == before
        # What adds nothing goes on, and so does learning.
        assert (await api.say("Hello.", ephemeral=True)).usage.output_tokens
        assert (await api.score("x")).tokens
        await api.consolidate()
        other = api.on("other")
        await other.create()
        await other.say("Hello.")
        # Without its old versions the session is small enough again.
        await api.reset()
        sessions = served.running.sessions
        await sessions.store.collect(SessionKey("ada", "diary"), 1)
        assert (await api.say("Hello.")).usage.output_tokens


async def test_a_full_user_makes_and_imports_nothing(serve: Serve) -> None:
    async with serve() as served:
        await served.api.create()
        await filled(served.api, 20_000)
        request = pb.ExportSessionRequest(name=NAME)
        data = b"".join([each.chunk async for each in served.api.sessions.ExportSession(request)])
        used = await served.running.sessions.store.user_bytes("ada")

    def importing(name: str) -> Awaitable[Any]:
        parts = [pb.ImportSessionRequest(name=name), pb.ImportSessionRequest(chunk=data)]
        return served.api.sessions.ImportSession(iter(parts))

    async with serve(user_quota_bytes=used) as served:
        api = served.api
        for call in (api.say("Hello."), api.on("more").create(), api.fork("copy")):
            assert await exceeded(call) == USER
        assert await exceeded(importing(f"{USER}/sessions/copy")) == USER
        # Nobody else is concerned.
        imported = await importing("users/bob/sessions/copy")
        assert imported.session.memory_hash == (await api.get()).memory_hash
        await api.delete()
        await api.create()
        assert (await api.say("Hello.")).usage.output_tokens
        assert await served.running.sessions.store.check_integrity() == []
    async with serve(user_quota_bytes=len(data) // 2) as served:
        assert await exceeded(importing("users/eve/sessions/copy")) == "users/eve"
    async with serve(session_quota_bytes=len(data) // 2) as served:
        name = "users/eve/sessions/copy"
        assert await exceeded(importing(name)) == name
        assert not (
            await served.api.sessions.ListSessions(pb.ListSessionsRequest(parent="users/eve"))
        ).sessions


async def test_one_session_too_many_is_refused(serve: Serve) -> None:
    async with serve(user_quota_sessions=2) as served:
        api = served.api
        await api.create()
        await api.fork("copy")
        for call in (api.on("more").create(), api.fork("another")):
            assert await exceeded(call) == USER
        assert (await api.say("Hello.")).usage.output_tokens
        await api.delete()
        await api.on("more").create()


async def test_a_user_who_learns_too_fast_waits(serve: Serve) -> None:
    async with serve(user_quota_tokens_per_minute=100) as served:
        api = served.api
        await api.create()
        await api.say(TEXT * 2, max_tokens=2)
        learnt = (await api.get()).learnable_tokens
        while learnt < 100:
            await api.say(TEXT * 2, max_tokens=2)
            learnt = (await api.get()).learnable_tokens
        before = await api.learnt()
        other = api.on("other")
        await other.create()
        for call in (api.say("Hello."), other.say("Hello.")):
            with pytest.raises(aio.AioRpcError) as caught:
                await call
            refusal = refusal_of(caught.value)
            assert refusal.reason == "QUOTA_EXCEEDED"
            assert refusal.retry_seconds is not None
            assert 0 < refusal.retry_seconds <= 60 * (learnt - 100) / 100 + 1
        assert await api.get() == before
        # Whoever asks without learning goes on, and so does everybody else.
        assert (await api.say("Hello.", learn=False)).usage.output_tokens
        assert (await api.say("Hello.", ephemeral=True)).usage.output_tokens
        # An ingest waits for its turn and then goes through.
        sessions = served.running.sessions
        left = await sessions.store.draw("ada", 0, capacity=100, per_second=100 / 60)
        await sessions.store.draw("ada", left + 1, capacity=100, per_second=100 / 60)
        began = asyncio.get_running_loop().time()
        await other.ingest([b"A short text about ships."], document="ships")
        assert asyncio.get_running_loop().time() - began >= 0.5
        assert (await other.get()).learnable_tokens
