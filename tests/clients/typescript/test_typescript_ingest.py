"""Documents through the TypeScript client: chunks, sources, and going on after a broken stream."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from node_client import NodeClient, NodeError, in_bytes, pieces
from scripted_server import UNAVAILABLE, Failure, ScriptedServer, start

TEXT = bytes(32 + number % 95 for number in range(20_500))
CUT = [TEXT[begin : begin + 700] for begin in range(0, len(TEXT), 700)]


@pytest.fixture
def novel(tmp_path: Path) -> Path:
    path = tmp_path / "novel.txt"
    path.write_bytes(TEXT)
    return path


async def events_of(client: NodeClient, source: Any, **options: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = await client.call("ingestEvents", "diary", source, options)
    return found


async def test_chunks_progress_and_result(server: ScriptedServer, client: NodeClient) -> None:
    *seen, result = await events_of(
        client, in_bytes(TEXT), document="d", conversation="c", learn=False, chunkBytes=8_000
    )
    assert bytes(server.documents["d"]) == TEXT
    assert result["type"] == "result"
    assert (result["committedBytes"], result["tokens"], result["ended"]) == (20_500, 5_125, True)
    assert [event["committedBytes"] for event in seen] == list(range(1000, 20_001, 1000))
    [start_request] = server.requests["Ingest"]
    assert start_request.session == "users/local/sessions/diary"
    assert start_request.conversation == "c"
    assert start_request.learn_options.learn is False
    [end] = server.requests["end"]
    assert end.keep_open is False
    assert server.requests["chunk"] == [8_000, 8_000, 4_500]


@pytest.mark.parametrize("kind", ["text", "bytes", "file", "stream"])
async def test_every_kind_of_source_survives_two_broken_streams(server, client, novel, kind):
    server.ingest_breaks.extend([(3_000, UNAVAILABLE), (7_000, UNAVAILABLE)])
    source = {
        "text": TEXT.decode(),
        "bytes": in_bytes(TEXT),
        "file": {"path": str(novel)},
        "stream": pieces(*CUT),
    }[kind]
    *seen, result = await events_of(client, source, document="novel.txt", chunkBytes=900)
    # The server compares the digest of what it has with that of every call.
    assert bytes(server.documents["novel.txt"]) == TEXT
    assert [each.offset_bytes for each in server.requests["Ingest"]] == [0, 3_000, 10_000]
    assert [each.content_digest != b"" for each in server.requests["Ingest"]] == [False, True, True]
    assert [event["type"] for event in seen].count("resuming") == 2
    # Tokens count over all calls: 750 and 1,750 of the broken ones are in.
    assert (result["committedBytes"], result["tokens"]) == (20_500, 5_125)


async def test_a_file_names_its_document(server, client, novel):
    await client.call("ingest", "diary", {"path": str(novel)})
    assert bytes(server.documents["novel.txt"]) == TEXT


async def test_another_document_of_the_same_name_is_refused(server, client):
    server.documents["d"] += b"another text"
    with pytest.raises(NodeError) as refused:
        await client.call("ingest", "diary", in_bytes(TEXT), {"document": "d", "resumeAtBytes": 12})
    assert refused.value.fields["reason"] == "DOCUMENT_DIFFERS"
    with pytest.raises(NodeError, match="this one has 5") as shorter:
        await client.call("ingest", "diary", "short", {"document": "d", "resumeAtBytes": 12})
    assert shorter.value.fields["reason"] == "DOCUMENT_DIFFERS"


async def test_a_refusal_that_is_not_about_the_offset_is_raised(server, client):
    server.ingest_breaks.append((3_000, UNAVAILABLE))
    frozen = Failure(grpc.StatusCode.FAILED_PRECONDITION, "frozen", "FROZEN")
    server.ingest_breaks.append((0, frozen))
    with pytest.raises(NodeError, match="frozen") as refused:
        await client.call("ingest", "diary", in_bytes(TEXT), {"document": "d"})
    assert refused.value.name == "FailedPreconditionError"


async def test_a_lost_acknowledgement_is_not_read_twice(server, client):
    server.ingest_breaks.append((1 << 40, UNAVAILABLE))  # fails when all is committed
    result = await client.call("ingest", "diary", in_bytes(TEXT), {"document": "d"})
    assert (result["committedBytes"], result["ended"]) == (20_500, True)
    assert result["memoryVersion"] == 4
    assert len(server.requests["Ingest"]) == 1
    server.ingest_breaks.append((1 << 40, UNAVAILABLE))
    result = await client.call(
        "ingest", "diary", pieces(*CUT), {"document": "open", "endOfDocument": False}
    )
    assert (result["committedBytes"], result["ended"]) == (20_500, False)
    assert len(server.requests["Ingest"]) == 2


async def test_attempts_without_progress_end_and_progress_renews_them(server, client):
    server.ingest_breaks.extend([(0, UNAVAILABLE)] * 4)
    with pytest.raises(NodeError) as broken:
        await client.call("ingest", "diary", in_bytes(TEXT), {"document": "d"})
    assert broken.value.name == "UnavailableError"
    assert len(server.requests["Ingest"]) == 4
    server.ingest_breaks.extend([(1_000, UNAVAILABLE)] * 9)
    await client.call("ingest", "diary", in_bytes(TEXT), {"document": "e"})
    assert bytes(server.documents["e"]) == TEXT


async def test_the_next_piece_of_an_open_document(server, client):
    first = await client.call(
        "ingest", "diary", in_bytes(TEXT[:4_000]), {"document": "d", "endOfDocument": False}
    )
    assert first["ended"] is False
    options = {"document": "d", "sourceOffsetBytes": first["committedBytes"]}
    await client.call("ingest", "diary", pieces(TEXT[4_000:]), options)
    assert bytes(server.documents["d"]) == TEXT
    document = await client.call("sessions.document", "diary", "d")
    assert (document["committedBytes"], document["ended"]) == (20_500, True)


async def test_a_restarted_server_is_found_again(start_node):
    server = ScriptedServer()
    server.add("users/local/sessions/diary")
    running = await start(server)
    patient = {"attempts": 60, "initialSeconds": 0.05, "maximumSeconds": 0.2}
    client = await start_node(server.target, retry=patient, resume=patient)
    await client.call("sessions.get", "diary")
    address = server.target
    await running.stop(None)
    server.ingest_breaks.append((5_000, UNAVAILABLE))
    ingest = asyncio.create_task(client.call("ingest", "diary", in_bytes(TEXT), {"document": "d"}))
    await asyncio.sleep(0.1)  # the client finds nobody
    running = await start(server, address)
    await ingest
    await running.stop(None)
    assert bytes(server.documents["d"]) == TEXT


async def test_misuse_is_refused_before_anything_is_sent(server, client, tmp_path):
    for options, message in (
        ({}, "needs a name"),
        ({"document": "d", "chunkBytes": 2 << 20}, "chunkBytes"),
        ({"document": "d", "sourceOffsetBytes": 5, "resumeAtBytes": 4}, "resumeAtBytes"),
    ):
        with pytest.raises(NodeError, match=message):
            await client.call("ingest", "diary", "x", options)
    with pytest.raises(NodeError, match="ENOENT"):
        await client.call("ingest", "diary", {"path": str(tmp_path / "missing")})
    assert server.requests == {}
