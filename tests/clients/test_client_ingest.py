"""Ingest through HopeClient: chunks, sources, and going on after a broken stream."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import hope_client as hope
import pytest
from hope_client.sources import StreamSource
from scripted_server import UNAVAILABLE, Failure, ScriptedServer, start

TEXT = bytes(32 + number % 95 for number in range(20_500))


@pytest.fixture
def novel(tmp_path: Path) -> Path:
    path = tmp_path / "novel.txt"
    path.write_bytes(TEXT)
    return path


async def pieces(of: bytes = TEXT, each: int = 700) -> AsyncIterator[bytes]:
    for begin in range(0, len(of), each):
        yield of[begin : begin + each]


def pipe(of: bytes) -> io.FileIO:
    """A file that cannot seek, whose content fits in the pipe's buffer."""
    reading, writing = os.pipe()
    os.write(writing, of)
    os.close(writing)
    return io.FileIO(reading, "rb")


async def test_chunks_progress_and_result(server, client):
    seen: list[hope.IngestEvent] = []
    result = await client.ingest(
        "diary", TEXT, document="d", conversation="c", learn=False, on_progress=seen.append
    )
    assert bytes(server.documents["d"]) == TEXT
    assert (result.committed_bytes, result.tokens, result.ended) == (20_500, 5_125, True)
    assert [event.committed_bytes for event in seen] == list(range(1000, 20_001, 1000))
    [start_request] = server.requests["Ingest"]
    assert start_request.session == "users/local/sessions/diary"
    assert start_request.conversation == "c"
    assert start_request.learn_options.learn is False
    [end] = server.requests["end"]
    assert end.keep_open is False
    assert server.requests["chunk"] == [20_500]


async def test_chunks_have_the_size_asked_for(server, client):
    await client.ingest("diary", TEXT, document="d", chunk_bytes=8_000)
    assert server.requests["chunk"] == [8_000, 8_000, 4_500]


@pytest.mark.parametrize("kind", ["text", "bytes", "path", "file", "pipe", "iterator"])
async def test_every_kind_of_source_survives_two_broken_streams(server, client, novel, kind):
    server.ingest_breaks.extend([(3_000, UNAVAILABLE), (7_000, UNAVAILABLE)])
    file = io.BytesIO(TEXT)
    source = {
        "text": TEXT.decode(),
        "bytes": TEXT,
        "path": novel,
        "file": file,
        "pipe": pipe(TEXT),
        "iterator": pieces(),
    }[kind]
    seen: list[hope.IngestEvent] = []
    result = await client.ingest(
        "diary", source, document="novel.txt", on_progress=seen.append, chunk_bytes=900
    )
    assert bytes(server.documents["novel.txt"]) == TEXT
    assert [each.offset_bytes for each in server.requests["Ingest"]] == [0, 3_000, 10_000]
    assert sum(isinstance(event, hope.Resuming) for event in seen) == 2
    # Tokens count over all calls: 750 and 1,750 of the broken ones are in.
    assert (result.committed_bytes, result.tokens) == (20_500, 5_125)
    assert not file.closed  # the caller opened it, the caller closes it
    file.close()


async def test_a_path_names_its_document(server, client, novel):
    await client.ingest("diary", novel)
    assert bytes(server.documents["novel.txt"]) == TEXT


async def test_a_refused_offset_after_a_break_is_asked_for_again(server, client):
    # The broken call commits more after the client asked how far it came.
    server.ingest_breaks.append((3_000, UNAVAILABLE))
    late = Failure(grpc.StatusCode.FAILED_PRECONDITION, reason="OFFSET_MISMATCH")
    server.ingest_breaks.append((0, late))

    def commit_late(event: hope.IngestEvent) -> None:
        if isinstance(event, hope.Resuming) and isinstance(event.error, hope.UnavailableError):
            server.sessions["users/local/sessions/diary"].memory_version = 9
        elif isinstance(event, hope.Resuming):
            server.documents["d"] += TEXT[3_000:4_000]

    await client.ingest("diary", TEXT, document="d", on_progress=commit_late)
    assert bytes(server.documents["d"]) == TEXT
    assert [each.offset_bytes for each in server.requests["Ingest"]] == [0, 3_000, 4_000]


async def test_a_refusal_that_is_not_about_the_offset_is_raised(server, client):
    server.ingest_breaks.append((3_000, UNAVAILABLE))
    frozen = Failure(grpc.StatusCode.FAILED_PRECONDITION, "frozen", "FROZEN")
    server.ingest_breaks.append((0, frozen))
    with pytest.raises(hope.FailedPreconditionError, match="frozen"):
        await client.ingest("diary", TEXT, document="d")


async def test_a_first_refusal_is_raised_at_once(server, client):
    seen: list[hope.IngestEvent] = []
    with pytest.raises(hope.FailedPreconditionError):
        await client.ingest(
            "diary", b"short", document="d", resume_at_bytes=5, on_progress=seen.append
        )
    assert seen == []


async def test_a_lost_acknowledgement_is_not_read_twice(server, client):
    server.ingest_breaks.append((1 << 40, UNAVAILABLE))  # fails when all is committed
    result = await client.ingest("diary", TEXT, document="d")
    assert (result.committed_bytes, result.ended, result.memory_version) == (20_500, True, 4)
    assert len(server.requests["Ingest"]) == 1


async def test_attempts_without_progress_end(server, client):
    server.ingest_breaks.extend([(0, UNAVAILABLE)] * 9)
    with pytest.raises(hope.UnavailableError):
        await client.ingest("diary", TEXT, document="d")
    # A status that is lost costs one call more.
    assert len(server.requests["Ingest"]) in (4, 5)


async def test_progress_renews_the_attempts(server, client):
    server.ingest_breaks.extend([(1_000, UNAVAILABLE)] * 9)
    await client.ingest("diary", TEXT, document="d")
    assert bytes(server.documents["d"]) == TEXT


async def test_a_restarted_server_is_found_again():
    server = ScriptedServer()
    server.add("users/local/sessions/diary")
    first = await start(server)
    address = server.target
    quick = hope.RetryPolicy(attempts=30, initial_seconds=0.05, maximum_seconds=0.2)
    moved = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield TEXT[:5_000]
        await moved.wait()
        yield TEXT[5_000:]

    async def restart() -> grpc.aio.Server:
        await server.until_committed("d", 5_000)
        await first.stop(None)
        second = await start(server, address)
        moved.set()
        return second

    async with hope.HopeClient(address, retry=quick, resume=quick) as client:
        restarting = asyncio.create_task(restart())
        try:
            await client.ingest("diary", slowly(), document="d")
        finally:
            await (await restarting).stop(None)
    assert server.target == address
    assert bytes(server.documents["d"]) == TEXT
    assert [each.offset_bytes for each in server.requests["Ingest"]] == [0, 5_000]


async def test_going_on_with_a_document(server, client):
    server.documents["d"] += TEXT[:4_000]
    await client.ingest("diary", pieces(), document="d", resume_at_bytes=4_000)
    assert bytes(server.documents["d"]) == TEXT


async def test_the_next_piece_of_an_open_document(server, client):
    first = await client.ingest("diary", TEXT[:4_000], document="d", end_of_document=False)
    assert first.ended is False
    await client.ingest(
        "diary", TEXT[4_000:], document="d", source_offset_bytes=first.committed_bytes
    )
    assert bytes(server.documents["d"]) == TEXT


async def test_a_refusal_is_told_even_when_a_write_fails_at_the_same_time(server, client):
    # Whether the refusal or the failing write is noticed first is a matter of luck.
    for _ in range(20):
        with pytest.raises(hope.NotFoundError):
            await client.ingest("nobody", TEXT, document="d", chunk_bytes=100)


async def test_how_far_a_document_came(server, client):
    assert await client.sessions.document("diary", "d") is None
    server.documents["d"] += b"12345"
    document = await client.sessions.document("diary", "d")
    assert document is not None
    assert (document.committed_bytes, document.ended) == (5, False)


async def test_a_failing_source_ends_the_call_with_its_own_error(server, client):
    async def broken() -> AsyncIterator[bytes]:
        yield TEXT[:2_000]
        raise OSError("disk on fire")

    with pytest.raises(OSError, match="disk on fire"):
        await client.ingest("diary", broken(), document="d")
    assert "d" not in server.ended


async def test_misuse_is_refused_before_anything_is_sent(server, client, tmp_path):
    with pytest.raises(ValueError, match="needs a name"):
        await client.ingest("diary", b"x")
    with pytest.raises(ValueError, match="chunk_bytes"):
        await client.ingest("diary", b"x", document="d", chunk_bytes=2 << 20)
    with pytest.raises(ValueError, match="resume_at_bytes"):
        await client.ingest("diary", b"x", document="d", source_offset_bytes=5, resume_at_bytes=4)
    with pytest.raises(TypeError, match="binary"):
        await client.ingest("diary", io.StringIO("x"), document="d")
    with pytest.raises(TypeError, match="list"):
        await client.ingest("diary", [b"x"], document="d")
    with pytest.raises(FileNotFoundError):
        await client.ingest("diary", tmp_path / "missing")
    assert server.requests == {}


async def test_a_stream_holds_no_more_than_its_bound():
    pulled = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal pulled
        while True:
            pulled += 100
            yield bytes(100)

    source = StreamSource(endless(), 0, max_held_bytes=1_000)

    async def read_from(offset: int) -> int:
        while True:
            offset += len(await source.read(offset, 100))

    async def settled() -> None:
        """Waits until the reader pulls nothing more, however many turns of the loop it is given."""
        still = 0
        while still < 50:
            before = pulled
            await asyncio.sleep(0)
            still = still + 1 if pulled == before else 0

    reading = asyncio.create_task(read_from(0))
    await settled()
    assert pulled == 1_000
    source.release(500)
    await settled()
    assert pulled == 1_500
    reading.cancel()
    assert len(await source.read(500, 64)) == 64
    with pytest.raises(hope.DataLossError):
        await source.read(499, 1)
    await source.close()


async def test_a_cancelled_read_loses_no_piece():
    gate = asyncio.Event()

    async def late() -> AsyncIterator[bytes]:
        await gate.wait()
        yield b"late"

    source = StreamSource(late(), 0)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(source.read(0, 10), 0.02)
    gate.set()
    assert await source.read(0, 10) == b"late"
    assert await source.read(4, 10) == b""
    await source.close()
