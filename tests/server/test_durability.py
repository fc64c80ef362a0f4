"""Power cuts, restarts and cuts of the text: the session is what it would be without them."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from api import Api, refusal_of
from grpc import aio
from hope.v1 import sessions_pb2
from serving import Serve, ServerProcess, Spawn
from told import TEXT

BOOK = (
    "Aldmoor lies on the river Tern. Dr. Vale, who keeps bees there, is 61 years old!\n\n"
    "“Naïve?” she said… 日本語。 Nobody answered, and the U.S. mail was late.\nTitle\n"
    "Her brother 🧑‍🚀 counts 3.14 stars;   he never sleeps.\r\n"
) * 12


async def say_until_heard(api: Api, text: str, request_id: str) -> str:
    """A turn's text. While a dead server's lease lasts, waits as long as the live one advises."""
    while True:
        try:
            return (await api.say(text, request_id=request_id)).text
        except aio.AioRpcError as error:
            if error.details() is None or "is held by" not in error.details():
                raise
            await asyncio.sleep(refusal_of(error).retry_seconds or 0)


async def undisturbed(
    serve: Serve, database: Path, turns: Sequence[str]
) -> tuple[list[str], sessions_pb2.Session]:
    """Replies and session of a server to which nothing happens."""
    async with serve(database=database) as served:
        await served.api.create()
        replies = [await say_until_heard(served.api, turn, f"t{i}") for i, turn in enumerate(turns)]
        return replies, await served.api.learnt()


async def test_what_a_crash_kept_from_being_learnt_is_learnt_after_it(
    serve: Serve, spawn: Spawn, tmp_path: Path
) -> None:
    turns = [TEXT * 2]
    async with spawn() as server:
        await server.api.create()
        reply = (await server.api.say(turns[0], request_id="t0")).text
        await server.kill()  # between the two commits
    async with spawn() as server:
        # The repeat is answered from the store, once what was due has been learnt.
        assert await say_until_heard(server.api, turns[0], "t0") == reply
        session = await server.api.get()
    replies, expected = await undisturbed(serve, tmp_path / "undisturbed.db", turns)
    assert replies == [reply]
    assert session.memory_version == expected.memory_version == 1
    assert session.memory_hash == expected.memory_hash
    assert session.pending_tokens == expected.pending_tokens


async def cut_off(server: ServerProcess, turn: asyncio.Task[str], seconds: float) -> str | None:
    """The reply to a turn during which the power goes, if it was acknowledged before."""
    await asyncio.wait([turn], timeout=seconds)
    await server.kill()
    try:
        return await turn
    except aio.AioRpcError:
        return None


# None that a shell lets its background commands ignore, as SIGQUIT.
@pytest.mark.parametrize("ended_by", [signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV])
async def test_a_killed_servers_lease_is_not_waited_for(
    spawn: Spawn, ended_by: signal.Signals
) -> None:
    async with spawn(lease_seconds=120) as server:
        await server.api.create()
        before = (await server.api.say(TEXT, request_id="t0")).text
        server.process.send_signal(ended_by)
        await server.process.wait()
    async with spawn(lease_seconds=120) as server:
        # Not refused once, although two minutes of the lease are left.
        assert (await server.api.say(TEXT, request_id="t0")).text == before
        assert (await server.api.say("And now?")).text


async def test_a_lease_that_must_be_waited_for_says_whose_and_how_long(spawn: Spawn) -> None:
    async with spawn(lease_seconds=60) as stopped, spawn(lease_seconds=60) as other:
        await stopped.api.create()
        await stopped.api.say(TEXT)
        stopped.process.send_signal(signal.SIGSTOP)  # it may go on at any time
        with pytest.raises(aio.AioRpcError) as caught:
            await other.api.say(TEXT)
        refusal = refusal_of(caught.value)
        assert refusal.reason == "SESSION_OWNED_ELSEWHERE"
        assert f"(process {stopped.process.pid} on " in refusal.message
        assert refusal.retry_seconds is not None
        assert 0 < refusal.retry_seconds <= 60
        assert f"for another {refusal.retry_seconds:.1f} s; wait" in refusal.message
        await stopped.kill()
        assert (await other.api.say(TEXT)).text


async def test_power_cuts_lose_no_acknowledged_turn_and_repeat_none(
    serve: Serve, spawn: Spawn, tmp_path: Path
) -> None:
    moments = 8  # a thousand of them: test_power_cuts.py
    rng = random.Random(moments)
    turns = [f"{number}. {TEXT * rng.randrange(1, 3)}" for number in range(2 * moments + 2)]
    replies: list[str] = []
    for moment in range(moments + 1):
        async with spawn() as server:
            if not moment:
                await server.api.create()
            while len(replies) < len(turns):
                at = len(replies)
                saying = asyncio.create_task(say_until_heard(server.api, turns[at], f"t{at}"))
                if moment == moments or at < 2 * moment + 1:
                    replies.append(await saying)
                    continue
                # Anywhere from before the turn begins to after it was learnt.
                reply = await cut_off(server, saying, rng.uniform(0, 0.4))
                replies += [reply] if reply is not None else []
                break
            else:
                session = await server.api.learnt()
    expected_replies, expected = await undisturbed(serve, tmp_path / "undisturbed.db", turns)
    assert replies == expected_replies
    assert session.memory_hash == expected.memory_hash
    assert session.log_records == expected.log_records
    assert session.levels == expected.levels


async def chat(api: Api) -> tuple[list[str], sessions_pb2.Session]:
    replies = [(await api.say(text)).text for text in ("Who keeps bees?", TEXT * 2, "And Rolf?")]
    return replies, await api.learnt()


async def test_the_pieces_of_a_text_and_restarts_do_not_matter(
    serve: Serve, tmp_path: Path
) -> None:
    data = BOOK.encode()
    cuts = sorted(random.Random(5).sample(range(1, len(data)), 199))
    pieces = [data[i:j] for i, j in itertools.pairwise([0, *cuts, len(data)])]
    assert len(pieces) == 200
    async with serve(database=tmp_path / "whole.db") as served:
        await served.api.create()
        await served.api.ingest([data])
        replies, expected = await chat(served.api)

    offset = 0
    for begin in range(0, 200, 40):  # five servers, one after the other
        async with serve(database=tmp_path / "pieces.db") as served:
            if not begin:
                await served.api.create()
            for number, piece in enumerate(pieces[begin : begin + 40], start=begin + 1):
                await served.api.ingest([piece], offset_bytes=offset, keep_open=number < 200)
                offset += len(piece)
    async with serve(database=tmp_path / "pieces.db") as served:
        cut_replies, cut = await chat(served.api)
    assert cut.memory_hash == expected.memory_hash
    assert cut_replies == replies
    assert cut.levels == expected.levels
    assert cut.learnable_tokens == expected.learnable_tokens
