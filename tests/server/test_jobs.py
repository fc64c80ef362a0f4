"""Folding a log again as a job: watched, joined, cancelled, and ended by mistakes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import grpc
import pytest
from api import NAME, USER, refusal_of, refused
from grpc import aio
from hope.v1 import sessions_pb2 as pb
from job_calls import UNAVAILABLE, Gate, forgetting, last_of, seen, teach, undisturbed
from serving import Serve, Served

from hope_runtime.errors import CorruptStateError
from server.app.job_state import Ask, Progress
from server.store.base import SessionKey, StoreFullError

KEY = SessionKey("ada", "diary")


async def test_a_job_tells_how_far_it_is_until_it_has_ended(served: Served) -> None:
    api = served.api
    await teach(api)
    jobs: list[pb.Job] = []
    after = await api.forget("gossip", jobs.append)
    assert {job.forget_document for job in jobs} == {"gossip"}
    for field in ("folded_records", "learnt_tokens", "consolidations"):
        counts = [getattr(job, field) for job in jobs]
        assert counts == sorted(counts)
    last = jobs[-1]
    assert last.folded_records == last.total_records > 0
    assert last.learnt_tokens == last.total_tokens == after.learnable_tokens
    assert last.consolidations >= 5
    assert last.duration.ToMicroseconds() > 0
    assert not after.HasField("job")
    migrated: list[pb.Job] = []
    await api.migrate(on_progress=migrated.append)
    assert migrated[-1].migrate_policy == "quick"
    assert await served.running.sessions.store.check_integrity() == []


async def test_a_job_goes_on_without_its_caller_and_others_join_it(served: Served) -> None:
    api = served.api
    before = await teach(api)
    expected = await undisturbed(api)
    gate = Gate(served.running, allowed=3)
    first = forgetting(api)
    await seen(first, 3)
    second = forgetting(api)
    assert (await second.read()).job.consolidations == 3
    first.cancel()
    for call in (
        api.say("Hello?"),
        api.score("x"),
        api.consolidate(),
        api.rename("Other"),
        api.rollback(),
        api.migrate(),
        api.forget("kept"),
        api.fork("copy"),
    ):
        with pytest.raises(aio.AioRpcError) as caught:
            await call
        refusal = refusal_of(caught.value)
        assert (refusal.code, refusal.reason) == (UNAVAILABLE, "JOB_RUNNING")
        assert refusal.retry_seconds
        assert "records" in refusal.message
    # Whoever only looks sees the session as it was, and its job.
    shown = await api.get()
    assert (shown.memory_hash, shown.etag) == (before.memory_hash, before.etag)
    assert (shown.job.forget_document, shown.job.consolidations) == ("gossip", 3)
    page = await api.sessions.ListSessions(pb.ListSessionsRequest(parent=USER))
    assert [session.HasField("job") for session in page.sessions] == [True, False]
    assert await api.diff(0, before.memory_version)
    assert (await api.on("undisturbed").say("Hello?")).usage.output_tokens
    gate.open()
    after = await last_of(second)
    assert after.memory_hash == expected.memory_hash
    assert after == await api.get()
    assert (await api.say("Who is Rolf?")).usage.memory_version == after.memory_version


async def test_a_job_ends_with_nobody_watching(served: Served) -> None:
    api = served.api
    await teach(api)
    expected = await undisturbed(api)
    gate = Gate(served.running, allowed=2)
    call = forgetting(api)
    await seen(call, 2)
    call.cancel()
    gate.open()
    async with asyncio.timeout(30):
        while (session := await api.get()).HasField("job"):
            pass
    assert session.memory_hash == expected.memory_hash


async def test_a_cancelled_job_leaves_the_session_as_it_was(serve: Serve) -> None:
    async with serve(job_checkpoint_seconds=0) as served:
        api = served.api
        before = await teach(api)
        expected = await undisturbed(api)
        gate = Gate(served.running, allowed=3)
        call = forgetting(api)
        await seen(call, 3)
        assert await api.cancel_job() == before
        async with refused(grpc.StatusCode.ABORTED, "JOB_CANCELLED"):
            await last_of(call)
        store = served.running.sessions.store
        assert await store.jobs() == []
        assert await store.check_integrity() == []  # no blob of it is left
        assert await api.cancel_job() == before  # none is no error
        gate.open()
        assert (await api.say("Hello?", ephemeral=True)).usage.output_tokens
        assert (await api.forget("gossip")).memory_hash == expected.memory_hash


async def test_erasing_a_session_ends_its_job(served: Served) -> None:
    api = served.api
    await teach(api)
    Gate(served.running, allowed=1)
    call = forgetting(api)
    await seen(call, 1)
    async with refused(grpc.StatusCode.ABORTED, "STALE_ETAG"):
        await api.delete(etag="old")
    assert (await api.get()).HasField("job")
    await api.delete()
    async with refused(grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND"):
        await last_of(call)
    sessions = served.running.sessions
    assert await sessions.store.check_integrity() == []
    assert not sessions.residency.entries
    await api.create()
    await api.fork("other")
    answer = await api.sessions.DeleteUser(pb.DeleteUserRequest(name=USER))
    assert answer.sessions == 2


async def test_a_job_under_constants_that_changed_is_given_up(serve: Serve) -> None:
    async with serve() as first:
        before = await teach(first.api)
        Gate(first.running, allowed=2)
        await seen(forgetting(first.api), 2)
    async with serve() as second:
        sessions = second.running.sessions
        quick = sessions.policies["quick"]
        sessions.policies = {**sessions.policies, "quick": replace(quick, seed=quick.seed + 1)}
        async with asyncio.timeout(30):
            while (session := await second.api.get()).HasField("job"):
                pass
        assert session == before
        await second.api.migrate()


async def test_a_bug_in_a_job_gives_the_session_back(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = served.api
    before = await teach(api)

    def broken(*_: object) -> None:
        raise KeyError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(served.running.sessions.engine, "consolidate", broken)
        async with refused(grpc.StatusCode.INTERNAL, "INTERNAL"):
            await api.forget("gossip")
    assert await api.get() == before
    assert (await api.forget("gossip")).memory_version == before.memory_version + 1


async def test_a_full_disk_keeps_a_job_from_being_saved_but_not_from_going_on(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(job_checkpoint_seconds=0) as served:
        await teach(served.api)
        expected = await undisturbed(served.api)
        store = served.running.sessions.store
        save_job: Callable[..., Any] = store.save_job
        refusals = 0

        async def full(lease: Any, **fields: Any) -> Any:
            nonlocal refusals
            if fields.get("put_blobs"):
                refusals += 1
                raise StoreFullError("no room.")
            return await save_job(lease, **fields)

        monkeypatch.setattr(store, "save_job", full)
        assert (await served.api.forget("gossip")).memory_hash == expected.memory_hash
        assert refusals > 1


def test_a_job_that_was_saved_before_can_be_read() -> None:
    """The bytes are what servers have written into stores: they stay as they are."""
    ask = b'{"policy": "default", "policy_digest": "d1", "document": "book"}'
    assert Ask.decode(ask) == Ask("default", "d1", "book")
    progress = (
        b'{"folded_records": 3, "total_records": 7, "learnt_tokens": 512, "total_tokens": 900,'
        b' "consolidations": 2, "seconds": 1.5, "log_seq": 9}'
    )
    assert Progress.decode(progress) == Progress(3, 7, 512, 900, 2, 1.5, 9)
    for data in (b"", b"[]", b'{"unknown": 1}'):
        with pytest.raises(CorruptStateError):
            Ask.decode(data)


async def test_what_is_no_job_is_refused_and_begins_none(served: Served) -> None:
    api = served.api
    await teach(api)
    for document in ("", "nothing"):
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "document"):
            await api.forget(document)
    async with refused(grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND"):
        await api.on("nowhere").forget("gossip")
    async with refused(grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND"):
        await api.on("nowhere").cancel_job()
    assert api.name == NAME
    assert await served.running.sessions.store.jobs() == []
