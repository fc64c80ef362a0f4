"""Folding a log again as a job: watched, joined, cancelled, and interrupted in every way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from api import NAME, USER, Api, refusal_of, refused
from grpc import aio
from hope.v1 import sessions_pb2 as pb
from hope_client import HopeClient
from serving import Serve, Served, Spawn
from told import TEXT

from hope_runtime.errors import CorruptStateError
from hope_runtime.session.fold import Boundary
from hope_runtime.session.memory import SessionMemory
from server.app.rebuild import Ask, Progress
from server.running import RunningServer
from server.store.base import SessionKey, StoreFullError

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
KEY = SessionKey("ada", "diary")


class Gate:
    """Lets a server's learner begin so many consolidations, and counts them."""

    def __init__(self, running: RunningServer, allowed: int | None = None) -> None:
        self.begun = 0
        self.allowed = allowed
        self._opened = threading.Event()
        learner = running.sessions.engine.learner
        consolidate = learner.consolidate

        def gated(memory: SessionMemory, boundary: Boundary) -> Generator[None, None, Any]:
            while self.allowed is not None and self.begun >= self.allowed:
                self._opened.wait(0.005)
                yield
            self.begun += 1
            return (yield from consolidate(memory, boundary))

        learner.consolidate = gated  # type: ignore[method-assign]

    def open(self) -> None:
        self.allowed = None
        self._opened.set()


async def teach(api: Api) -> pb.Session:
    """A session whose log has something to forget, and something to learn again."""
    await api.create()
    await api.ingest([TEXT.encode() * 3], document="kept")
    await api.ingest([b"Rolf bit the postman twice. " * 5], document="gossip")
    await api.say("Hello, my name is Ada.")
    await api.end_conversation()
    await api.ingest([TEXT.encode() * 3], document="more")
    return await api.learnt()


async def undisturbed(api: Api, session_id: str = "undisturbed") -> pb.Session:
    """What the job comes to, found on a fork."""
    await api.fork(session_id)
    return await api.on(session_id).forget("gossip")


def forgetting(api: Api) -> aio.UnaryStreamCall[Any, Any]:
    return api.sessions.ForgetDocument(pb.ForgetDocumentRequest(name=api.name, document="gossip"))


async def seen(call: aio.UnaryStreamCall[Any, Any], consolidations: int) -> pb.Job:
    """The job once so many consolidations are done."""
    while (job := (await call.read()).job).consolidations < consolidations:
        pass
    return job


async def last_of(call: aio.UnaryStreamCall[Any, Any]) -> pb.Session:
    while (event := await call.read()).WhichOneof("event") != "session":
        pass
    return event.session


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


async def test_a_drain_saves_a_job_and_the_next_server_goes_on(serve: Serve) -> None:
    async with serve() as first:
        await teach(first.api)
        expected = await undisturbed(first.api)
        whole = Gate(first.running)
        await undisturbed(first.api, "counted")
        gate = Gate(first.running, allowed=4)
        call = forgetting(first.api)
        await seen(call, 4)
        stopping = asyncio.create_task(first.running.stop())
        async with refused(UNAVAILABLE, "DRAINING"):
            await last_of(call)
        await stopping
    async with serve() as second:
        rest = Gate(second.running)
        session = await last_of(forgetting(second.api))
        assert session.memory_hash == expected.memory_hash
        # Nothing was learnt twice, and nothing left out.
        assert gate.begun + rest.begun == whole.begun - gate.begun
        assert rest.begun > 0


async def test_power_cuts_cost_a_job_only_what_was_not_saved(
    serve: Serve, spawn: Spawn, tmp_path: Path
) -> None:
    async with serve(database=tmp_path / "undisturbed.db") as served:
        await teach(served.api)
        jobs: list[pb.Job] = []
        expected = await served.api.forget("gossip", jobs.append)
    async with spawn() as server:
        await teach(server.api)
    reached, cuts = 0, 0
    while True:
        async with spawn(job_checkpoint_seconds=0) as server:
            if not cuts:
                call = forgetting(server.api)
            else:
                # Nobody asks again: it goes on by itself. This only joins.
                call = await joined(server.api)
            first = last = (await call.read()).job
            # What was saved is what was seen, or one consolidation less.
            assert first.consolidations >= reached - 1
            session = None
            while session is None and not (cuts < 2 and last.consolidations >= reached + 2):
                event = await call.read()
                if event.WhichOneof("event") == "session":
                    session = event.session
                else:
                    last = event.job
            if session is not None:
                break
            reached, cuts = last.consolidations, cuts + 1
            await server.kill()
    assert cuts == 2
    assert session.memory_hash == expected.memory_hash
    assert session.levels == expected.levels
    assert (last.consolidations, last.folded_records) == (
        jobs[-1].consolidations,
        jobs[-1].total_records,
    )


async def joined(api: Api) -> aio.UnaryStreamCall[Any, Any]:
    """The job as its new server runs it, once the dead one's lease is over."""
    async with asyncio.timeout(30):
        while True:
            call = forgetting(api)
            try:
                await call.wait_for_connection()
                return call
            except aio.AioRpcError as error:
                if refusal_of(error).reason != "SESSION_OWNED_ELSEWHERE":
                    raise
                await asyncio.sleep(0.05)


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


async def test_a_client_finds_its_job_again_after_a_restart(serve: Serve) -> None:
    async with serve() as first:
        port = first.running.port
        await teach(first.api)
        expected = await undisturbed(first.api)
        Gate(first.running, allowed=3)
        shown: list[int] = []
        held = asyncio.Event()

        def on_progress(job: pb.Job) -> None:
            shown.append(job.consolidations)
            if job.consolidations == 3:
                held.set()

        client = HopeClient(f"127.0.0.1:{port}", user="ada")
        forgotten = asyncio.create_task(
            client.sessions.forget_document("diary", "gossip", on_progress=on_progress)
        )
        await held.wait()
    before = len(shown)
    async with serve(port=port):
        assert (await forgotten).memory_hash == expected.memory_hash
        assert all(consolidations >= 3 for consolidations in shown[before:])
        await client.close()


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
