"""Documents and ends of conversations over the wire: what is read, learnt and kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from api import Api, refused
from hope.v1 import inference_pb2 as pb
from serving import Serve
from told import TEXT, kept

INVALID = grpc.StatusCode.INVALID_ARGUMENT


async def test_a_document_is_read_learnt_and_closed(api: Api) -> None:
    data = (TEXT * 40).encode()
    seen: list[pb.IngestProgress] = []
    result = await api.ingest([data[:1000], data[1000:]], on_progress=seen.append)
    assert result.ended
    assert result.committed_bytes == len(data) == seen[-1].committed_bytes
    assert len(seen) >= 3
    assert [item.committed_bytes for item in seen] == sorted(item.committed_bytes for item in seen)
    # Scored once, where it is learnt.
    scored = [item for item in seen if item.HasField("surprise_nats")]
    assert scored
    assert all(item.surprise_nats > 0 for item in scored)
    session = await api.get()
    assert session.learnable_tokens == result.tokens
    assert session.pending_tokens == 0
    assert [(d.name, d.committed_bytes, d.ended) for d in session.documents] == [
        ("book", len(data), True)
    ]
    assert session.memory_version == result.memory_version > 0


async def test_only_a_policy_with_budgets_takes_one(api: Api) -> None:
    assert not (await api.get()).HasField("document_budget")
    for wrong in (-1, 1e6, 2.5):  # this server's policy knows none
        async with refused(INVALID, "INVALID_REQUEST", "start.learn_options.budget"):
            await api.ingest([TEXT.encode()], budget=wrong)


async def test_a_document_left_open_goes_on_where_it_was(api: Api) -> None:
    data = TEXT.encode()
    first = await api.ingest([data[:30]], keep_open=True)
    assert (first.committed_bytes, first.ended) == (30, False)
    for wrong in (0, 29, 31):
        async with refused(INVALID, "INVALID_REQUEST", "start.offset_bytes"):
            await api.ingest([data[30:]], offset_bytes=wrong)
    result = await api.ingest([data[30:]], offset_bytes=30)
    assert result.ended
    async with refused(INVALID, "INVALID_REQUEST", "start.document"):
        await api.ingest([b"more"], offset_bytes=result.committed_bytes)


async def test_committed_bytes_never_go_back(api: Api) -> None:
    # A span of many tokens, then white space that belongs to the next one.
    dense = ("\u5b57" * 900 + "\u3002   ").encode()
    first = await api.ingest([dense], keep_open=True)
    seen: list[pb.IngestProgress] = []
    more = ("Next. " * 10).encode()
    await api.ingest([more], offset_bytes=first.committed_bytes, on_progress=seen.append)
    counts = [first.committed_bytes, *(item.committed_bytes for item in seen)]
    assert counts == sorted(counts)
    assert counts[-1] == len(dense) + len(more)


@pytest.mark.parametrize("how", ["cancel", "half close"])
async def test_a_broken_ingest_keeps_what_it_reported(api: Api, how: str) -> None:
    data = (TEXT * 20).encode()
    hold = asyncio.Event()

    async def requests() -> AsyncIterator[pb.IngestRequest]:
        yield pb.IngestRequest(start=pb.IngestStart(session=api.name, document="book"))
        yield pb.IngestRequest(chunk=data)
        await hold.wait()

    call = api.inference.Ingest(requests())
    committed = 0
    while committed < len(data) // 4:
        committed = (await call.read()).progress.committed_bytes
    if how == "cancel":
        call.cancel()
    else:
        hold.set()
        async with refused(grpc.StatusCode.ABORTED, "BROKEN_STREAM"):
            while (event := await call.read()) is not grpc.aio.EOF:
                committed = event.progress.committed_bytes
    session = await api.learnt()
    document = session.documents[0]
    assert not document.ended
    assert document.committed_bytes >= committed
    rest = await api.ingest(
        [data[document.committed_bytes :]], offset_bytes=document.committed_bytes
    )
    other = api.on("other")
    await other.create()
    await other.ingest([data])
    assert rest.ended
    assert (await api.learnt()).memory_hash == (await other.learnt()).memory_hash


async def test_ending_a_conversation_learns_it_and_drops_its_window(api: Api) -> None:
    await api.say("My name is Ada.")
    ended = await api.end_conversation()
    assert [report.level for report in ended.consolidations] == [0]
    assert ended.session.conversations == []
    assert ended.session.pending_tokens == 0
    again = await api.end_conversation()
    assert kept(again.session) == kept(ended.session)
    await api.say("More.")
    quick = await api.end_conversation(wait=False)
    assert not quick.consolidations
    assert (await api.learnt()).levels[0].updates == 2


async def test_consolidating_learns_what_waits_and_then_nothing(api: Api) -> None:
    assert not (await api.consolidate()).consolidations
    await api.say("My name is Ada.")
    (report,) = (await api.consolidate()).consolidations
    assert (report.level, report.spans) == (0, 1)
    assert report.tokens == (await api.get()).learnable_tokens
    assert report.surprise_after_nats < report.surprise_before_nats
    assert not (await api.consolidate()).consolidations


async def test_an_idle_chat_is_learnt(serve: Serve) -> None:
    async with serve(idle_learning_seconds=0.05) as served:
        await served.api.create()
        await served.api.say("My name is Ada.")
        # The upkeep has nothing to await from outside, so this asks until it has happened.
        async with asyncio.timeout(30):
            while (session := await served.api.get()).levels[0].updates == 0:
                pass
        assert session.pending_tokens == 0


async def test_the_state_of_a_long_session_stays_small(api: Api) -> None:
    sizes = []
    for number in range(6):
        await api.ingest([TEXT.encode() * 20], document=f"part {number}", conversation="reading")
        sizes.append((await api.learnt()).state_bytes)
    assert max(sizes[2:]) - min(sizes[2:]) < 4096
