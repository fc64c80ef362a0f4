"""`hope serve --engine vllm`: what a client sees is what it sees of the native engine."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from api import Api, refusal_of, refused
from engines import has_vllm
from fast_memories import small_fast_memory
from grpc import aio
from quick_server import QUICK
from serving import Serve
from test_metrics import scrape
from told import TEXT

from hope_runtime.engine.vllm.engine import VLLMEngine
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.policy import POLICIES
from server import running

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not has_vllm(), reason="see `make test-vllm`"),
]

CACHE = 64 << 20


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(6000):
        if holds():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it never happened")


async def life(api: Api) -> tuple[list[object], float]:
    """A session's life: chat, document, learning, rollback. What a client sees of it, and the nats
    of a text."""
    await api.create()
    seen: list[object] = [(await api.say("Who are you?", max_tokens=12)).text]
    await api.ingest([TEXT.encode() * 2], document="book")
    await api.say(TEXT, max_tokens=4)
    await api.end_conversation(conversation="default")
    session = await api.learnt()
    seen += [session.memory_hash, session.memory_version, session.learnable_tokens]
    assert any(level.updates for level in session.levels)
    for seed in range(3):
        options = {"temperature": 1.0, "seed": seed, "ephemeral": True}
        seen.append((await api.say("Rolf?", max_tokens=12, **options)).text)
    nats = (await api.score("Rolf likes cheese.")).total_nats
    await api.rollback(version=0)
    seen.append((await api.say("Rolf?", max_tokens=12, ephemeral=True)).text)
    return seen, nats


async def test_both_engines_show_a_client_the_same(serve: Serve, small_model: BaseModel) -> None:
    options = {"model": small_model, "window_cache_bytes": CACHE, "metrics_port": 0}
    async with serve(**options) as served:
        native, nats = await life(served.api)
        names = sorted(await scrape(served))
    async with serve(**options, engine="vllm") as served:
        assert await life(served.api.on("other")) == (native, pytest.approx(nats, rel=1e-4))
        assert sorted(await scrape(served)) == names
        async with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "policy"):
            await served.api.on("third").create(policy="forward")


async def test_a_session_moves_between_engines_with_all_its_memories(
    serve: Serve, small_model: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Levels and fast memory both: exported after each part of its life, and imported elsewhere."""
    policy = replace(QUICK, name="both", writes_forward=True)
    monkeypatch.setitem(POLICIES, policy.name, policy)
    monkeypatch.setattr(running, "shipped_fast_memory", small_fast_memory)
    options = {"model": small_model, "window_cache_bytes": CACHE}

    async def part(api: Api, number: int) -> tuple[str, str]:
        reply = await api.say(f"{TEXT} This is part {number}.", max_tokens=12)
        await api.end_conversation(conversation="default")
        return reply.text, (await api.learnt()).memory_hash

    async with serve(**options, database=tmp_path / "home.db") as home:
        await home.api.create(policy="both")
        stayed = [await part(home.api, number) for number in range(4)]
    moved, data = [], b""
    for number, engine in enumerate(("vllm", "torch", "vllm", "torch")):
        place = tmp_path / f"{number}.db"
        async with serve(**options, engine=engine, database=place) as served:
            if data:
                await served.api.import_(data)
            else:
                await served.api.create(policy="both")
            moved.append(await part(served.api, number))
            data = await served.api.export()
    assert moved == stayed
    assert len({memory_hash for _, memory_hash in stayed}) == 4


async def test_a_process_that_is_killed_costs_a_call_and_no_memory(
    serve: Serve, small_model: BaseModel
) -> None:
    async with serve(model=small_model, window_cache_bytes=CACHE, engine="vllm") as served:
        engine = served.running.sessions.engine
        assert isinstance(engine, VLLMEngine)
        apis = [served.api.on(f"s{number}") for number in range(4)]
        for api in apis:
            await api.create()
            await api.say(TEXT, max_tokens=4)
            await api.end_conversation(conversation="default")
        before = [await api.learnt() for api in apis]
        replies = [(await api.say("Rolf?", max_tokens=8, ephemeral=True)).text for api in apis]
        lost = engine.pid
        assert lost is not None
        calls = [
            asyncio.create_task(api.say("A long story!", max_tokens=200, ephemeral=True))
            for api in apis
        ]
        await until(lambda: engine.load().running == 4)
        os.kill(lost, signal.SIGKILL)
        for call in calls:
            with pytest.raises(aio.AioRpcError) as caught:
                await call
            refusal = refusal_of(caught.value)
            assert refusal.code is grpc.StatusCode.UNAVAILABLE
            assert refusal.reason == "ENGINE_LOST"
            assert refusal.retry_seconds == 5.0
        started = time.monotonic()
        await until(lambda: engine.pid not in (None, lost))
        print(f"served again after {time.monotonic() - started:.1f} s")
        again = [(await api.say("Rolf?", max_tokens=8, ephemeral=True)).text for api in apis]
        assert again == replies
        after = [await api.get() for api in apis]
        assert [one.memory_hash for one in after] == [one.memory_hash for one in before]
