"""Servers killed at random moments while several sessions talk and learn: nothing lost, none twice.

The server alone dies: what its store does when that is killed is in the store's own tests.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import processes
import pytest
from api import Api, refusal_of
from grpc import aio
from hope.v1 import sessions_pb2
from serving import WINDOW, Serve, connect
from valkey_process import StoreProcess, binaries

from hope_runtime.checkpoints import load_base_model
from server.store.base import SessionStore
from server.store.redis import RedisStore
from server.store.sqlite import SQLiteStore

SESSIONS = 8
NURSERY = Path(__file__).with_name("nursery.py")
# Of about as many tokens, which are bytes, as make the fastest level learn.
TEXT = "Rolf likes cheese and rain. "
LEASE_SECONDS = 0.25
# A server dies when it has answered some turns, or none, and a while after: before the dead one's
# leases have ended, in the middle of turns, of learning, or between them.
MOST_TURNS = 4
LONGEST_WHILE_SECONDS = 0.4


@dataclass
class Place:
    """Where the servers keep their sessions: their setting that says so, and the same opened."""

    setting: dict[str, Any]
    store: SessionStore


@pytest.fixture(params=["sqlite", *sorted(binaries())])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "sqlite":
        path = tmp_path / "sessions.db"
        yield Place({"database": path}, SQLiteStore(path))
        return
    (tmp_path / "store").mkdir()
    process = StoreProcess(binaries()[request.param], tmp_path / "store").start()
    yield Place({"store": process.url}, RedisStore(process.url))
    process.kill()


@dataclass
class Nursery:
    """Starts one server after the other on one store, quickly."""

    process: asyncio.subprocess.Process
    place: Place
    model: Path
    directory: Path
    child: int = 0
    starts: int = 0

    async def start(self) -> None:
        """Starts a server; `port` tells when and where it listens."""
        self.starts += 1
        settings = {
            **self.place.setting,
            "port": 0,
            "model": self.model,
            "dtype": "float32",
            "window-tokens": WINDOW,
            "threads": 1,
            "lease-seconds": LEASE_SECONDS,
        }
        arguments = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps([str(self._output), *arguments]).encode() + b"\n")
        self.child = int(await self.process.stdout.readline())

    async def port(self) -> int:
        while True:
            text = self._output.read_text() if self._output.exists() else ""
            for line in text.splitlines(keepends=True):
                if "listens on" in line and line.endswith("\n"):
                    return int(line.rpartition(":")[2])
            os.kill(self.child, 0)  # raises when the server has died by itself
            await asyncio.sleep(0.01)

    async def kill(self) -> None:
        """Ends the server as a power cut would."""
        os.kill(self.child, signal.SIGKILL)
        while True:
            try:
                os.kill(self.child, 0)
            except ProcessLookupError:
                break
            await asyncio.sleep(0.005)
        self._output.unlink(missing_ok=True)

    @property
    def _output(self) -> Path:
        return self.directory / f"server-{self.starts}.log"


@asynccontextmanager
async def nursery(place: Place, model: Path, directory: Path) -> AsyncIterator[Nursery]:
    process = await processes.start(
        sys.executable,
        str(NURSERY),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    made = Nursery(process, place, model, directory)
    try:
        yield made
    finally:
        if made.child:
            await made.kill()
        processes.kill_group(process)
        await processes.soon(process.wait())


@dataclass
class Power:
    """Where the present server listens, while there is one; and that the cuts are over."""

    channel: aio.Channel | None = None
    over: bool = False
    answered: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def switch(self, channel: aio.Channel | None) -> None:
        async with self.changed:
            self.channel = channel
            self.changed.notify_all()

    async def answer(self) -> None:
        async with self.changed:
            self.answered += 1
            self.changed.notify_all()

    async def until_answered(self, more: int) -> None:
        async with self.changed:
            enough = self.answered + more
            await self.changed.wait_for(lambda: self.answered >= enough)

    async def api(self, name: str) -> Api:
        async with self.changed:
            await self.changed.wait_for(lambda: self.channel is not None)
            return Api(self.channel, name)


@dataclass
class Talker:
    """A client that says one thing after the other to its session, each until it is heard."""

    number: int
    power: Power
    replies: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"users/ada/sessions/diary-{self.number}"

    def text(self, turn: int) -> str:
        rng = random.Random(f"{self.number}:{turn}")
        return f"{self.number}.{turn}. {TEXT * rng.randrange(1, 3)}"

    async def talk(self) -> None:
        await self._heard(lambda api: api.create(), may_exist=True)
        while not self.power.over:
            self.replies.append(await self._heard(self._say))
            await self.power.answer()

    async def _say(self, api: Api) -> str:
        turn = len(self.replies)
        return (await api.say(self.text(turn), request_id=f"t{turn}")).text

    async def learnt(self) -> sessions_pb2.Session:
        return await self._heard(lambda api: api.learnt())

    async def _heard(self, call, *, may_exist: bool = False):
        while True:
            api = await self.power.api(self.name)
            try:
                result = await call(api)
            except aio.AioRpcError as error:
                if may_exist and error.code() is grpc.StatusCode.ALREADY_EXISTS:
                    return None
                # The line was cut, or the dead server's lease still lasts. Nothing else is
                # allowed to happen to a client.
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                held = error.details() and "is held by" in error.details()
                await asyncio.sleep(refusal_of(error).retry_seconds if held else 0.01)
            else:
                return result


@pytest.mark.parametrize("cuts", [6, pytest.param(1000, marks=pytest.mark.heavy)])
async def test_power_cuts_under_eight_sessions_lose_nothing_and_repeat_nothing(
    serve: Serve, place: Place, byte_chat_model_dir: Path, tmp_path: Path, cuts: int
) -> None:
    rng = random.Random(cuts)
    power = Power()
    talkers = [Talker(number, power) for number in range(SESSIONS)]
    channel: aio.Channel | None = None
    async with nursery(place, byte_chat_model_dir, tmp_path) as servers:
        talking = [asyncio.create_task(talker.talk()) for talker in talkers]
        for cut in range(cuts + 1):
            await servers.start()
            if cut and rng.random() < 0.05:  # sometimes before anybody could come in
                await asyncio.sleep(rng.uniform(0, 0.3))
                await servers.kill()
                await servers.start()
            cut_off, channel = channel, connect(await servers.port())
            await power.switch(channel)
            if cut_off is not None:
                await cut_off.close()  # what was on it has failed by now, and not by this
            if cut == cuts:
                break
            life = asyncio.create_task(power.until_answered(rng.randint(0, MOST_TURNS)))
            await asyncio.wait([life, *talking], return_when=asyncio.FIRST_COMPLETED)
            for client in talking:
                if client.done():
                    client.result()  # raises what it met and must not
            await asyncio.sleep(rng.uniform(0, LONGEST_WHILE_SECONDS))
            await power.switch(None)
            await servers.kill()
        power.over = True
        await asyncio.gather(*talking)
        found = [await talker.learnt() for talker in talkers]
        assert channel is not None
        await channel.close()
    async with place.store as left:
        assert await left.check_integrity() == []
    model = load_base_model(byte_chat_model_dir, dtype="float32")
    async with serve(model, database=tmp_path / "undisturbed.db") as served:
        for talker, session in zip(talkers, found, strict=True):
            api = Api(served.api.channel, talker.name)
            await api.create()
            replies = [
                (await api.say(talker.text(turn), request_id=f"t{turn}")).text
                for turn in range(len(talker.replies))
            ]
            expected = await api.learnt()
            assert talker.replies == replies
            assert session.memory_hash == expected.memory_hash
            assert session.log_records == expected.log_records
            assert session.levels == expected.levels
