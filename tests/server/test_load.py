"""Many streams at once, and clients that behave badly: nothing is lost, nothing is left behind."""

from __future__ import annotations

import asyncio
from collections import Counter

import grpc
import pytest
from api import Api, refusal_of
from grpc import aio
from grpc_status.rpc_status import from_call
from hope.v1 import inference_pb2 as pb
from serving import Serve, Served
from told import TEXT

STREAMS = 200
SESSIONS = 40
ENDLESS = 100_000


async def at_rest(served: Served) -> None:
    """Waits until nothing runs; then every slot, row, lock and byte must be accounted for."""
    sessions = served.running.sessions
    engine, residency = sessions.engine, sessions.residency
    async with asyncio.timeout(30):
        await residency.idle(30)
        while any(each.resident and each.resident.learning for each in residency.entries.values()):
            await served.api.get()
    load = engine.load()
    assert (load.running, load.waiting, load.learning) == (0, 0, 0)
    assert engine.slot_pool.held == 0
    engine.slot_pool.check_integrity()
    for entry in residency.entries.values():
        assert (entry.users, entry.lock.locked(), entry.job) == (0, False, None)
    assert await sessions.store.check_integrity() == []
    heads = (await sessions.store.list_sessions("ada", page_size=1000))[0]
    for head in heads:
        assert len(await sessions.store.read_log(head.key, limit=10_000)) == head.log_seq
    # No session shares its log, and each blob of a user is there once.
    assert await sessions.store.user_bytes("ada") <= sum(head.stored_bytes for head in heads)


async def test_hundreds_of_streams_at_once_lose_nothing(serve: Serve) -> None:
    async with serve() as served:
        apis = [served.api.on(f"s{number}") for number in range(SESSIONS)]
        await asyncio.gather(*(api.create(policy="default") for api in apis))
        await served.api.create()

        async def talk(number: int) -> str:
            api = apis[number % SESSIONS]
            return (await api.say(f"Number {number}.", max_tokens=4, learn=False)).text

        replies = await asyncio.gather(*(talk(number) for number in range(STREAMS)))
        assert len(replies) == STREAMS
        for api in apis:
            assert (await api.get()).log_records == STREAMS // SESSIONS
        await at_rest(served)


async def test_clients_that_behave_badly_cost_themselves_only(serve: Serve) -> None:
    """A quarter each: patient, gone in the middle, out of time, and reading slowly."""
    async with serve() as served:
        await served.api.create()
        apis = [served.api.on(f"s{number}") for number in range(SESSIONS)]
        await asyncio.gather(*(api.create() for api in apis))
        others_are_done = asyncio.Event()

        async def patient(api: Api) -> str:
            assert (await api.say("Hello.", max_tokens=8)).usage.output_tokens == 8
            return "kept"

        async def gone(api: Api) -> str:
            call = api.inference.Generate(api.asking(TEXT, max_tokens=ENDLESS))
            assert (await call.read()).delta.text
            call.cancel()
            return "nothing"

        async def out_of_time(api: Api) -> str:
            with pytest.raises(aio.AioRpcError) as caught:
                await api.events(api.asking(TEXT, max_tokens=ENDLESS), timeout=1)
            assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            return "nothing"

        async def slow(api: Api) -> str:
            call = api.inference.Generate(api.asking("Hello.", max_tokens=300))
            first = await call.read()
            await others_are_done.wait()
            text, event = first.delta.text, first
            while not event.HasField("result"):
                event = await call.read()
                text += event.delta.text
            assert event.result.text == text
            assert event.result.usage.output_tokens == 300
            return "kept"

        kinds = (patient, gone, out_of_time, slow)
        tasks = [asyncio.create_task(kinds[n % 4](api)) for n, api in enumerate(apis)]
        await asyncio.gather(*(task for n, task in enumerate(tasks) if n % 4 != 3))
        others_are_done.set()
        outcomes = await asyncio.gather(*tasks)
        assert Counter(outcomes) == {"kept": SESSIONS // 2, "nothing": SESSIONS // 2}
        await at_rest(served)
        for api, outcome in zip(apis, outcomes, strict=True):
            session = await api.get()
            assert session.log_records == (outcome == "kept"), (api.name, outcome)
            assert bool(session.learnable_tokens) == (outcome == "kept")


async def test_a_drain_under_load_keeps_what_was_acknowledged_and_nothing_else(
    serve: Serve,
) -> None:
    answered: Counter[str] = Counter()
    refusals: Counter[str] = Counter()
    begun = asyncio.Event()

    async def talk(api: Api) -> None:
        while True:
            try:
                result = await api.say(TEXT, max_tokens=4)
            except aio.AioRpcError as error:
                # Who comes when the port is being closed may find nobody to say why.
                said = from_call(error) is not None
                refusals[refusal_of(error).reason if said else error.code().name] += 1
                return
            answered[api.name] += result.usage.learnable_tokens
            if len(answered) == len(apis):
                begun.set()

    async with serve() as served:
        apis = [served.api.on(f"s{number}") for number in range(12)]
        await asyncio.gather(*(api.create() for api in apis))
        tasks = [asyncio.create_task(talk(api)) for api in apis]
        await begun.wait()
        await served.running.stop()
        await asyncio.gather(*tasks)
        assert refusals.keys() <= {"DRAINING", "UNAVAILABLE", "CANCELLED"}
        assert refusals.total() == len(apis)
        assert refusals["DRAINING"]
        assert served.running.sessions.engine.slot_pool.held == 0
    async with serve() as served:
        for name, tokens in answered.items():
            api = Api(served.api.channel, name)
            assert (await api.get()).learnable_tokens == tokens
            assert (await api.say("Hello?", learn=False)).usage.output_tokens
        await at_rest(served)


async def test_an_ingest_that_breaks_under_load_resumes(served: Served) -> None:
    """Documents are read beside one another, each broken off once; none has a byte twice."""
    await served.api.create()
    apis = [served.api.on(f"s{number}") for number in range(4)]
    whole = served.api.on("whole")
    data = (TEXT * 16).encode()
    await asyncio.gather(*(api.create() for api in (*apis, whole)))
    await whole.ingest([data])

    async def read(api: Api) -> None:
        start = pb.IngestRequest(start=pb.IngestStart(session=api.name, document="book"))
        hold = asyncio.Event()

        async def requests():  # type: ignore[no-untyped-def]
            yield start
            yield pb.IngestRequest(chunk=data)
            await hold.wait()

        call = api.inference.Ingest(requests())
        while (await call.read()).progress.committed_bytes < len(data) // 3:
            pass
        call.cancel()
        await served.running.sessions.residency.idle(30)
        offset = (await api.learnt()).documents[0].committed_bytes
        assert (await api.ingest([data[offset:]], offset_bytes=offset)).ended

    await asyncio.gather(*(read(api) for api in apis))
    expected = (await whole.learnt()).memory_hash
    assert {(await api.learnt()).memory_hash for api in apis} == {expected}
    await at_rest(served)
