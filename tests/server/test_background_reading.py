"""Documents that the server reads on its own, beside other turns and across restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import grpc
from api import Api, refused
from hope.v1 import sessions_pb2 as pb
from job_calls import Gate
from serving import Serve, Spawn
from told import TEXT

INVALID, UNAVAILABLE = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAVAILABLE
BOOKS = {"one": (TEXT * 30).encode(), "two": b"Rolf bit the postman twice. " * 40}


async def queue(api: Api) -> None:
    for name, text in BOOKS.items():
        result = await api.ingest([text[:100], text[100:]], document=name, detach=True)
        assert (result.queued, result.ended, result.committed_bytes) == (True, False, 0)


async def until(api: Api, reached: Callable[[pb.Session], bool]) -> pb.Session:
    for _ in range(3000):
        if reached(session := await api.get()):
            return session
        await asyncio.sleep(0.02)
    raise TimeoutError


def idle(session: pb.Session) -> bool:
    return not session.HasField("job")


def begun(session: pb.Session) -> bool:
    """Whether part of a document was read, and not all of it."""
    return any(each.committed_bytes and not each.ended for each in session.documents)


async def read_at_once(serve: Serve, path: Path) -> pb.Session:
    """A session that read the same documents in calls that waited."""
    async with serve(database=path) as served:
        await served.api.create()
        for name, text in BOOKS.items():
            await served.api.ingest([text], document=name)
        return await served.api.learnt()


async def test_documents_are_read_in_turn_while_nobody_waits(serve: Serve, tmp_path: Path) -> None:
    expected = await read_at_once(serve, tmp_path / "at_once.db")
    async with serve() as served:
        await served.api.create()
        gate = Gate(served.running, allowed=0)
        await queue(served.api)
        session = await until(served.api, begun)
        one, two = session.job.read_documents.documents
        assert (one.name, one.total_bytes) == ("one", len(BOOKS["one"]))
        assert 0 < one.committed_bytes < one.total_bytes
        assert (two.name, two.committed_bytes, two.tokens) == ("two", 0, 0)
        # What would fold the log again must wait, what only looks need not.
        async with refused(UNAVAILABLE, "JOB_RUNNING"):
            await served.api.forget("one")
        gate.allowed = None
        session = await until(served.api, idle)
    assert session.memory_hash == expected.memory_hash
    assert [each.ended for each in session.documents] == [True, True]


async def test_a_killed_server_goes_on_where_it_was(
    serve: Serve, spawn: Spawn, tmp_path: Path
) -> None:
    expected = await read_at_once(serve, tmp_path / "at_once.db")
    async with spawn() as server:
        await server.api.create()
        await queue(server.api)
        await until(server.api, begun)
        await server.kill()
    async with spawn() as server:
        session = await until(server.api, idle)
    assert session.memory_hash == expected.memory_hash
    assert session.log_records >= expected.log_records


async def test_what_was_committed_stays_after_a_cancel_and_is_read_on(serve: Serve) -> None:
    async with serve() as served:
        api = served.api
        await api.create()
        gate = Gate(served.running, allowed=1)
        await queue(api)
        await until(api, begun)
        cancelling = api.sessions.CancelJob(pb.CancelJobRequest(name=api.name))
        gate.allowed = None
        session = (await cancelling).session
        assert idle(session)
        committed = {each.name: each.committed_bytes for each in session.documents}
        assert 0 < committed["one"] < len(BOOKS["one"])
        again = {"document": "one", "offset_bytes": committed["one"], "detach": True}
        await api.ingest([BOOKS["one"][committed["one"] :]], **again)
        session = await until(api, idle)
        assert [(each.name, each.ended) for each in session.documents] == [("one", True)]


async def test_turns_go_on_beside_it(serve: Serve) -> None:
    async with serve() as served:
        await served.api.create()
        await queue(served.api)
        result = await served.api.say("Who keeps bees?", conversation="chat")
        assert result.text
        session = await until(served.api, idle)
        assert "chat" in session.conversations


async def test_what_cannot_be_read_is_refused_before_it_is_kept(api: Api) -> None:
    async with refused(INVALID, "INVALID_REQUEST", "chunk"):
        await api.ingest([b""], detach=True)
    async with refused(INVALID, "INVALID_REQUEST", "end.keep_open"):
        await api.ingest([b"More."], detach=True, keep_open=True)
    async with refused(INVALID, "INVALID_REQUEST", "start.offset_bytes"):
        await api.ingest([b"More."], detach=True, offset_bytes=3)
    assert idle(await api.get())


async def test_a_document_that_cannot_be_read_says_why_until_it_is_sent_again(serve: Serve) -> None:
    async with serve() as served:
        api = served.api
        await api.create()
        await api.ingest([b"\xff\xfe is no text"], detach=True)
        session = await until(api, lambda each: bool(_errors(each)))
        assert "UTF-8" in _errors(session)[0]
        await api.ingest([b"A text."], detach=True)
        session = await until(api, idle)
        assert [(each.name, each.ended) for each in session.documents] == [("book", True)]


def _errors(session: pb.Session) -> list[str]:
    return [each.error for each in session.job.read_documents.documents if each.error]
