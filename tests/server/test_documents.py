"""Documents over the wire: which one it is, and what a session lets go of for others."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from typing import Any

import grpc
import pytest
from api import Api, refusal_of, refused
from hope.v1 import inference_pb2 as pb
from processes import soon
from serving import Served
from told import TEXT

from server.store.base import SessionKey

INVALID = grpc.StatusCode.INVALID_ARGUMENT


def digest_of(data: bytes) -> bytes:
    """As sessions.proto says it."""
    chain, blocks = bytes(32), len(data) // 64
    for block in range(blocks):
        chain = hashlib.sha256(chain + data[64 * block : 64 * block + 64]).digest()
    return hashlib.sha256(chain + data[64 * blocks :]).digest()


async def test_a_document_is_told_from_another_one_of_its_name(api: Api) -> None:
    data, other = (TEXT * 2).encode(), (TEXT * 2).swapcase().encode()
    differs = (grpc.StatusCode.FAILED_PRECONDITION, "DOCUMENT_DIFFERS", "start.content_digest")
    await api.ingest([data[:90]], keep_open=True)
    [document] = (await api.get()).documents
    assert document.content_digest == digest_of(data[:90])
    before = await api.get()
    for wrong in (other[:90], data[:89], data[:91], data[:89] + b"x", b""):
        async with refused(*differs):
            await api.ingest([data[90:]], offset_bytes=90, content_digest=digest_of(wrong))
    assert await api.get() == before
    async with refused(INVALID, "INVALID_REQUEST", "start.content_digest"):
        await api.ingest([data[90:]], offset_bytes=90, content_digest=b"short")
    await api.ingest([data[90:]], offset_bytes=90, content_digest=digest_of(data[:90]))
    [document] = (await api.get()).documents
    assert document.ended
    assert document.content_digest == digest_of(data)


@pytest.mark.parametrize("size", [1, 63, 64, 65, 1000])
async def test_a_digest_does_not_depend_on_how_the_text_was_cut(api: Api, size: int) -> None:
    # Characters of several bytes, and white space that stays behind in the tail.
    data = ("Ein Satz über Ödön. \u5b57\u5b57\u3002    " * 40).encode()
    pieces = [data[at : at + size] for at in range(0, len(data) // 2, size)]
    half = sum(map(len, pieces))
    first = await api.ingest(pieces, keep_open=True)
    assert first.committed_bytes == half
    assert (await api.get()).documents[0].content_digest == digest_of(data[:half])
    await api.ingest([data[half:]], offset_bytes=half, content_digest=digest_of(data[:half]))
    assert (await api.get()).documents[0].content_digest == digest_of(data)


async def test_a_document_of_an_older_state_goes_on_without_a_digest(served: Served) -> None:
    api = served.api
    await api.create()
    await api.ingest([TEXT.encode()], keep_open=True)
    async with served.running.sessions.exclusive(SessionKey("ada", "diary")) as resident:
        old = {name: replace(d, content=b"") for name, d in resident.memory.documents.items()}
        resident.memory = replace(resident.memory, documents=old)
    await api.ingest([b"More."], offset_bytes=len(TEXT), content_digest=digest_of(b"whatever"))
    [document] = (await api.get()).documents
    assert (document.ended, document.content_digest) == (True, b"")


async def test_what_a_session_lets_go_of_is_said(api: Api) -> None:
    results = [await api.say("Hi", conversation=f"c{index}") for index in range(9)]
    assert [each.window_began for each in results] == [True] * 9
    assert [each.dropped_conversation for each in results] == [""] * 8 + ["c0"]
    again = await api.say("And?", conversation="c8")
    assert (again.window_began, again.dropped_conversation) == (False, "")
    back = await api.say("And?", conversation="c0")
    assert (back.window_began, back.dropped_conversation) == (True, "c1")
    passing = await api.say("And?", conversation="c1", ephemeral=True)
    assert (passing.window_began, passing.dropped_conversation) == (True, "")


async def test_the_place_of_the_65th_document_is_another_ones(api: Api) -> None:
    seen: list[pb.IngestProgress] = []
    for index in range(65):
        await api.ingest([b"A."], document=f"d{index}", learn=False, on_progress=seen.append)
    assert [each.dropped_document for each in seen] == [""] * 64 + ["d0"]
    assert len((await api.get()).documents) == 64


def parts(api: Api, *chunks: bytes, **end: object) -> list[pb.IngestRequest]:
    start = pb.IngestStart(session=api.name, document="book")
    return [
        pb.IngestRequest(start=start),
        *[pb.IngestRequest(chunk=chunk) for chunk in chunks],
        pb.IngestRequest(end=pb.IngestEnd(**end)),
    ]


@pytest.mark.parametrize("keep_open", [False, True])
async def test_a_document_that_was_changed_while_it_was_read_does_not_end(
    api: Api, keep_open: bool
) -> None:
    data = (TEXT * 20).encode()
    async with refused(
        grpc.StatusCode.FAILED_PRECONDITION, "DOCUMENT_DIFFERS", "end.content_digest"
    ):
        wrong = digest_of(data[:-1])
        requests = parts(api, data, keep_open=keep_open, content_digest=wrong)
        async for _ in api.inference.Ingest(iter(requests)):
            pass
    [document] = (await api.get()).documents
    assert not document.ended
    assert 0 < document.committed_bytes < len(data)  # what was reported before stays
    assert document.content_digest == digest_of(data[: document.committed_bytes])
    rest = data[document.committed_bytes :]
    await api.ingest([rest], offset_bytes=document.committed_bytes)
    right = parts(api.on("right"), data, content_digest=digest_of(data))
    await api.on("right").create()
    events = [event async for event in api.inference.Ingest(iter(right))]
    assert events[-1].result.ended
    assert (await api.on("right").get()).memory_hash == (await api.get()).memory_hash


async def test_waits_are_told_while_they_last(served: Served) -> None:
    api = served.api
    await api.create()
    gate = asyncio.Event()
    learn = served.running.sessions.commits._learn

    async def held(resident: Any) -> Any:
        await gate.wait()
        return await learn(resident)

    served.running.sessions.commits._learn = held  # type: ignore[method-assign]
    events = aiter(api.inference.Ingest(iter(parts(api, (TEXT * 20).encode()))))
    event = await soon(anext(events))
    assert event.status.status == pb.STATUS_LEARNING  # and nothing goes on before the gate opens
    gate.set()
    kinds = [event.WhichOneof("event") async for event in events]
    assert kinds[-1] == "result"
    assert "progress" in kinds


async def test_an_offset_of_bytes_that_are_no_text_is_that_of_the_document(api: Api) -> None:
    first = await api.ingest([b"Good text. " * 9], keep_open=True)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await api.ingest([b"More. ", b"Bad \xe9."], offset_bytes=first.committed_bytes)
    assert (
        f"byte {first.committed_bytes + 10} cannot be decoded" in refusal_of(caught.value).message
    )
