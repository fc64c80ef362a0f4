"""Servers that share a store: one owner of each session, and what becomes of its turns if it stops.

Real server processes on a real valkey-server.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from api import Api, refusal_of, refused
from grpc import aio
from hope.v1 import inference_pb2
from serving import Serve, Spawn
from told import TEXT
from valkey_process import StoreProcess, binaries

from server.main import main
from server.store.errors import StoreUnavailableError
from server.store.redis import RedisStore

LEASE_SECONDS = 1.0
# Turns that are under way for a while.
LONG = 120


@pytest.fixture(params=sorted(binaries()))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreProcess]:
    (tmp_path / "store").mkdir()
    process = StoreProcess(binaries()[request.param], tmp_path / "store")
    process.start()
    yield process
    process.kill()


async def until_owned(api: Api, text: str, request_id: str, max_tokens: int = 6) -> str:
    """The reply, as late as another server's lease demands; as the clients do it."""
    while True:
        try:
            return (await api.say(text, request_id=request_id, max_tokens=max_tokens)).text
        except aio.AioRpcError as error:
            refusal = refusal_of(error)
            assert refusal.reason in ("SESSION_OWNED_ELSEWHERE", "STORE_UNAVAILABLE"), refusal
            assert refusal.retry_seconds is not None
            await asyncio.sleep(min(refusal.retry_seconds, 0.2))


async def test_a_session_goes_on_where_it_is_asked(serve: Serve, store: StoreProcess) -> None:
    async with serve(store=store.url) as first:
        await first.api.create()
        await first.api.say(TEXT * 2)
        before = await first.api.learnt()
        async with serve(store=store.url) as second:
            async with refused(grpc.StatusCode.UNAVAILABLE, "SESSION_OWNED_ELSEWHERE"):
                await second.api.say("And me?")
            assert (await second.api.get()).memory_hash == before.memory_hash
    # A server that ends hands its leases over: no time passes before the next one has them.
    async with serve(store=store.url) as third:
        assert (await third.api.get()).memory_hash == before.memory_hash
        assert (await third.api.say("And you?")).text
        assert await third.running.sessions.store.check_integrity() == []


async def test_a_killed_servers_sessions_are_taken_over_at_once(
    spawn: Spawn, store: StoreProcess
) -> None:
    async with (
        spawn(store=store.url, lease_seconds=120) as killed,
        spawn(store=store.url, lease_seconds=120) as other,
    ):
        await killed.api.create()
        await killed.api.say(TEXT)
        async with refused(grpc.StatusCode.UNAVAILABLE, "SESSION_OWNED_ELSEWHERE"):
            await other.api.say("Mine?")
        await killed.kill()
        assert (await other.api.say("And now?")).text


async def undisturbed(serve: Serve, store: StoreProcess, names: list[str]) -> dict[str, str]:
    """Hashes of the same sessions on a server to which nothing happens."""
    async with serve(store=store.url.replace("/0", "/1")) as served:
        for name in names:
            api = served.api.on(name)
            await api.create()
            for turn in range(3):
                await until_owned(api, f"{turn}. {TEXT}", f"t{turn}", LONG if turn == 1 else 6)
        return {name: (await served.api.on(name).learnt()).memory_hash for name in names}


@pytest.mark.parametrize("count", [4, pytest.param(32, marks=pytest.mark.heavy)])
async def test_a_server_that_was_stopped_past_its_leases_writes_nothing_more(
    serve: Serve, spawn: Spawn, store: StoreProcess, count: int
) -> None:
    names = [f"s{number}" for number in range(count)]
    expected = await undisturbed(serve, store, names)
    options = {"store": store.url, "lease_seconds": LEASE_SECONDS}
    async with spawn(**options) as stopped, spawn(**options) as other:
        for name in names:
            await stopped.api.on(name).create()
            await stopped.api.on(name).say(f"0. {TEXT}", request_id="t0")
        calls = [
            asyncio.create_task(begun_turn(stopped.api.on(name), f"1. {TEXT}")) for name in names
        ]
        # Some have begun by then, none or few have ended.
        await asyncio.wait(calls, timeout=0.3)
        stopped.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(LEASE_SECONDS)
        replies = await asyncio.gather(
            *(until_owned(other.api.on(name), f"1. {TEXT}", "t1", LONG) for name in names)
        )
        stopped.process.send_signal(signal.SIGCONT)
        late = await asyncio.gather(*calls, return_exceptions=True)
        fenced = 0
        for reply, answer in zip(replies, late, strict=True):
            if isinstance(answer, aio.AioRpcError):
                assert refusal_of(answer).reason in ("SESSION_LOST", "STALE_ETAG")
                fenced += 1
            else:  # it was durable before the server was stopped, and the other one repeated it
                assert answer == reply
        assert fenced
        # The one that was stopped knows that it lost them.
        async with refused(grpc.StatusCode.UNAVAILABLE, "SESSION_OWNED_ELSEWHERE"):
            await stopped.api.on(names[0]).say("Mine?")
        for name in names:
            await until_owned(other.api.on(name), f"2. {TEXT}", "t2")
        for name in names:
            session = await other.api.on(name).learnt()
            assert session.memory_hash == expected[name], name
            turns = session.log_records - session.memory_version
            assert turns >= 3
    async with RedisStore(store.url) as left:
        assert await left.check_integrity() == []


async def begun_turn(api: Api, text: str) -> str:
    request = api.asking(text, max_tokens=LONG, request_id="t1")
    events = [event async for event in api.inference.Generate(request)]
    result: inference_pb2.GenerateResult = events[-1].result
    return result.text


async def test_a_store_that_is_gone_for_a_while_loses_no_turn(
    serve: Serve, store: StoreProcess
) -> None:
    """Killed, and started again from its file."""
    async with serve(store=store.url) as served:
        api = served.api
        await api.create()
        await api.say(f"0. {TEXT}", request_id="t0")
        before = await api.learnt()
        store.kill()
        async with refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"):
            await api.say(f"1. {TEXT}", request_id="t1", max_tokens=LONG)
        store.start()
        async with refused(grpc.StatusCode.ABORTED, "SESSION_LOST"):
            # The store's new process knows none of the old one's leases.
            await api.say(f"1. {TEXT}", request_id="t1", max_tokens=LONG)
        assert (await api.get()).memory_hash == before.memory_hash
        for turn in (1, 2):
            await until_owned(api, f"{turn}. {TEXT}", f"t{turn}", LONG if turn == 1 else 6)
        (expected,) = (await undisturbed(serve, store, ["alone"])).values()
        assert (await api.learnt()).memory_hash == expected


async def test_a_full_store_refuses_and_the_session_goes_on_when_there_is_room(
    serve: Serve, store: StoreProcess
) -> None:
    async with serve(store=store.url) as served:
        api = served.api
        await api.create()
        await api.say(f"0. {TEXT}", request_id="t0")
        before = await api.learnt()
        with store.client() as client:
            client.config_set("maxmemory", 1)
        async with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL"):
            await api.say(f"1. {TEXT}", request_id="t1", max_tokens=LONG)
        assert (await api.get()).memory_hash == before.memory_hash
        with store.client() as client:
            client.config_set("maxmemory", 0)
        for turn in (1, 2):
            await until_owned(api, f"{turn}. {TEXT}", f"t{turn}", LONG if turn == 1 else 6)
        (expected,) = (await undisturbed(serve, store, ["alone"])).values()
        assert (await api.learnt()).memory_hash == expected


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--store", "localhost:6379"], "store"),
        (["--store", "redis://h", "--database", "x.db"], "mutually exclusive"),
        (["--store-fsync"], "store_fsync requires store"),
        (["--store-password-file", "x"], "store_password_file requires store"),
    ],
)
def test_a_store_is_said_whole(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


async def test_the_password_comes_from_a_file_and_goes_nowhere(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "locked").mkdir()
    process = StoreProcess(binaries()["valkey"], tmp_path / "locked")
    process.start()
    try:
        with process.client() as client:
            client.config_set("requirepass", "secret-4711")
        path = tmp_path / "password"
        path.write_text("secret-4711\n")
        caplog.set_level("INFO")
        async with serve(store=process.url, store_password_file=path) as served:
            await served.api.create()
            assert (await served.api.say("Hello.")).usage.output_tokens
        path.write_text("wrong")
        with pytest.raises(StoreUnavailableError, match="rejected the credentials"):
            async with serve(store=process.url, store_password_file=path):
                pass
        assert "secret-4711" not in caplog.text
    finally:
        process.kill()
