"""Both clients against a real server: broken connections leave the memory as undisturbed ones do.

The same text is told and read over a connection that breaks at many places, before and after the
server's commits. Then the memory's hash and the length of its log must be those of a session that
was never disturbed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

import hope_client as hope
import pytest
from fault_proxy import FaultProxy, fault_proxy
from hope_client import HopeClient, SyncHopeClient
from processes import in_a_thread, soon
from real_server import QUICK, RealServer

FACTS = "My cat is called Ada. She is seven years old and she sleeps on the piano all day long. "
NOVEL = (
    "The harbour lay still. A gull cried over the roofs, and no one in the street heard it. " * 16
)
BREAKS = 6
SAMPLING = hope.Sampling(max_tokens=24, temperature=0.8)


class Left(NamedTuple):
    """What a session has learnt, and in how many steps."""

    memory_hash: str
    log_records: int
    memory_version: int
    reply: str


@pytest.fixture
async def direct(real_server: RealServer) -> AsyncIterator[HopeClient]:
    async with HopeClient(real_server.target) as client:
        yield client


@pytest.fixture
async def proxy(real_server: RealServer) -> AsyncIterator[FaultProxy]:
    async with fault_proxy(real_server.port) as proxy:
        yield proxy


async def told(client: HopeClient, session: str) -> str:
    """A turn that is sampled, a document and the end of the conversation; the reply as streamed."""
    text = ""
    async for event in client.generate(session, FACTS, sampling=SAMPLING, request_id="once"):
        if isinstance(event, hope.Restarted):
            text = ""
        elif isinstance(event, hope.TextDelta):
            text += event.text
        elif isinstance(event, hope.GenerateResult):
            assert event.text == text
    await client.ingest(session, NOVEL, document="novel", chunk_bytes=500)
    await client.sessions.end_conversation(session)
    return text


async def until(
    look: Callable[[], Awaitable[hope.Session]], good: Callable[[hope.Session], bool]
) -> None:
    """Looks at a session until it is as it should be."""
    while not good(await look()):  # noqa: ASYNC110 - nothing tells when
        await asyncio.sleep(0.02)


async def left(direct: HopeClient, session: str, reply: str) -> Left:
    session_now = await direct.sessions.get(session)
    assert session_now.learnable_tokens > 256
    assert session_now.pending_tokens == 0
    return Left(session_now.memory_hash, session_now.log_records, session_now.memory_version, reply)


async def test_wherever_the_connection_breaks_everything_is_learnt_once(direct, proxy):
    await direct.sessions.create("calm", policy="quick")
    async with HopeClient(proxy.target) as client:
        undisturbed = await left(direct, "calm", await told(client, "calm"))
    whole = proxy.passed
    for index in range(BREAKS):
        session = f"torn-{index}"
        await direct.sessions.create(session, policy="quick")
        # One break somewhere in all that the server says, another soon after it.
        proxy.cuts.extend([whole * (index + 1) // (BREAKS + 1), 200])
        async with HopeClient(proxy.target, retry=QUICK, resume=QUICK) as client:
            assert await left(direct, session, await told(client, session)) == undisturbed
        assert not proxy.cuts


async def test_a_committed_turn_whose_answer_was_lost_is_replayed(direct, proxy):
    await direct.sessions.create("lost", policy="quick")
    async with HopeClient(proxy.target, retry=QUICK) as client:
        await client.sessions.get("lost")
        proxy.deaf = True
        turn = asyncio.create_task(client.say("lost", FACTS, sampling=SAMPLING))
        await until(lambda: direct.sessions.get("lost"), lambda now: now.log_records > 0)
        proxy.deaf = False
        proxy.cut()
        result = await soon(turn)
    assert result.replayed
    assert (await direct.sessions.get("lost")).log_records == 1


async def test_an_unlearnt_turn_that_broke_is_run_again(direct, proxy):
    await direct.sessions.create("early", policy="quick")
    long = hope.Sampling(max_tokens=600)  # so that the cut comes before its end
    async with HopeClient(proxy.target, retry=QUICK) as client:
        events = client.generate("early", FACTS, sampling=long)
        text = ""
        async with contextlib.aclosing(events):
            async for event in events:
                if isinstance(event, hope.TextDelta) and not text:
                    proxy.cut()
                if isinstance(event, hope.Resuming):
                    assert text
                if isinstance(event, hope.TextDelta):
                    text += event.text
    assert isinstance(event, hope.GenerateResult)
    assert not event.replayed
    assert event.text == text
    assert (await direct.sessions.get("early")).log_records == 1


async def test_a_killed_server_is_waited_for(chat_model_dir, tmp_path):
    server = RealServer(chat_model_dir, tmp_path)
    await in_a_thread(server.start)
    patient = hope.RetryPolicy(attempts=60, initial_seconds=0.2, maximum_seconds=0.5)
    try:
        async with HopeClient(server.target, retry=patient, resume=patient) as client:
            await client.sessions.create("calm", policy="quick")
            await client.sessions.create("killed", policy="quick")
            undisturbed = await left(client, "calm", await told(client, "calm"))
            turn = asyncio.create_task(told(client, "killed"))
            await until(lambda: client.sessions.get("killed"), lambda now: len(now.documents) > 0)
            await in_a_thread(server.kill)
            await in_a_thread(server.start)
            reply = await soon(turn)
            assert await left(client, "killed", reply) == undisturbed
    finally:
        server.kill()


@pytest.mark.parametrize("turn", ["first", "second"])
def test_no_test_finds_the_sessions_of_another(real_server, turn):
    with SyncHopeClient(real_server.target) as client:
        assert list(client.sessions.list()) == []
        client.sessions.create("same-name", display_name=turn)


def test_the_synchronous_client(real_server):
    with SyncHopeClient(real_server.target) as client:
        client.sessions.create("sync", policy="quick")
        text = "".join(
            event.text
            for event in client.generate("sync", FACTS, sampling=SAMPLING, request_id="once")
            if isinstance(event, hope.TextDelta)
        )
        again = client.say("sync", FACTS, sampling=SAMPLING, request_id="once")
        assert (again.text, again.replayed) == (text, True)
        result = client.ingest("sync", iter([NOVEL.encode()]), document="novel")
        assert result.ended
        assert client.sessions.end_conversation("sync").session.pending_tokens == 0
        pieces = list(client.sessions.export("sync"))
        twin = client.sessions.import_("sync-twin", iter(pieces))
        assert twin.memory_hash == client.sessions.get("sync").memory_hash
        names = {session.name.rpartition("/")[2] for session in client.sessions.list()}
        assert {"sync", "sync-twin"} <= names
        client.sessions.delete("sync-twin")
        with pytest.raises(hope.NotFoundError):
            client.sessions.get("sync-twin")
