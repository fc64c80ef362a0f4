"""Turns over the wire: what a client sees, what it leaves in the session, what it must not."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from api import Api, refused
from hope.v1 import inference_pb2 as pb
from serving import WINDOW, Serve, Served, connect
from told import TEXT, kept

from hope_runtime.layers.kv_cache import KVCache
from hope_runtime.models.decoder.weights import BaseModel
from server.store.base import SessionKey

INVALID = grpc.StatusCode.INVALID_ARGUMENT


# Generate


async def test_a_turn_streams_its_text_and_ends_with_a_result(api: Api) -> None:
    events = await api.events(api.asking("Who are you?", max_tokens=12))
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[-1] == "result"
    assert set(kinds[:-1]) == {"delta"}
    result = events[-1].result
    assert result.text == "".join(event.delta.text for event in events[:-1])
    assert sum(event.delta.tokens for event in events[:-1]) == 12
    assert result.finish_reason == pb.FINISH_REASON_LENGTH
    usage = result.usage
    assert usage.output_tokens == 12
    assert 0 < usage.learnable_tokens < usage.input_tokens
    assert usage.surprise_nats > 0
    assert usage.memory_version == 0
    session = await api.get()
    assert session.conversations == ["default"]
    assert session.log_records == 1
    assert session.learnable_tokens == session.pending_tokens == usage.learnable_tokens


async def test_greedy_is_the_default_and_a_seed_repeats_a_reply(api: Api) -> None:
    async def reply(**sampling: float) -> str:
        return (await api.say("Hi", ephemeral=True, max_tokens=10, **sampling)).text

    assert await reply() == await reply()
    seeded = await reply(temperature=1.5, seed=7)
    assert seeded == await reply(temperature=1.5, seed=7)
    assert len({seeded, await reply(temperature=1.5, seed=8), await reply(temperature=1.5)}) == 3


async def test_a_stop_string_ends_a_reply(api: Api) -> None:
    whole = (await api.say("Hi", ephemeral=True, max_tokens=10)).text
    stop = whole[len(whole) // 2 :][:3]
    result = await api.say("Hi", ephemeral=True, max_tokens=10, stop=[stop])
    assert result.finish_reason == pb.FINISH_REASON_STOP_STRING
    assert result.text == whole[: whole.index(stop)]


async def test_a_conversation_remembers_and_another_begins_empty(api: Api) -> None:
    first = await api.say("One.")
    again = await api.say("One.")
    other = await api.say("One.", conversation="work")
    assert again.text != first.text  # it has read the first turn
    assert other.usage.input_tokens == first.usage.input_tokens
    assert (await api.get()).conversations == ["default", "work"]


async def test_a_turn_that_crosses_a_boundary_is_learnt_behind_the_reply(api: Api) -> None:
    before = await api.score("Rolf likes cheese.")
    result = await api.say(TEXT + TEXT)
    assert result.usage.learnable_tokens > 32
    after = await api.learnt()
    assert after.memory_version == 1
    assert after.levels[0].updates >= 1
    assert after.levels[0].relative_norm > 0
    assert after.levels[0].surprise_after_nats < after.levels[0].surprise_before_nats
    score = await api.score("Rolf likes cheese.")
    assert score.total_nats != before.total_nats
    frozen = await api.score("Rolf likes cheese.", frozen=True)
    assert frozen.total_nats == before.total_nats


async def test_a_turn_says_that_it_waits_for_learning(api: Api) -> None:
    await api.say(TEXT + TEXT)
    first, *_ = await api.events(api.asking("And then?"))
    assert first.status.status == pb.STATUS_LEARNING


async def test_a_turn_says_that_others_go_first(served: Served, api: Api) -> None:
    key = SessionKey("ada", "diary")
    async with served.running.sessions.exclusive(key):
        waiting = api.inference.Generate(api.asking("Still there?"))
        assert (await waiting.read()).status.status == pb.STATUS_QUEUED
    while not (event := await waiting.read()).HasField("result"):
        assert event.delta.text
    assert await waiting.read() is grpc.aio.EOF


async def test_turns_on_one_session_run_one_after_the_other(api: Api) -> None:
    together = await asyncio.gather(*[api.say(f"Number {number}.") for number in range(5)])
    assert len(together) == 5
    session = await api.get()
    assert session.log_records == 5


async def test_sessions_are_private(api: Api) -> None:
    other = api.on("other")
    await other.create()
    before = await other.get()
    await asyncio.gather(api.ingest([TEXT.encode() * 4]), other.say("Hello", ephemeral=True))
    assert kept(await other.get()) == kept(before)
    third = api.on("third")
    await third.create()
    assert (await other.say("Who?")).text == (await third.say("Who?")).text
    assert (await other.get()).memory_hash == (await third.get()).memory_hash


# What must not be kept


async def test_an_ephemeral_turn_keeps_nothing(served: Served, api: Api) -> None:
    await api.say("Remember this.")
    before = await api.get()
    plain = await api.say(TEXT + TEXT, ephemeral=True)
    await api.say(TEXT, ephemeral=True, conversation="another", request_id="once")
    assert kept(await api.learnt()) == kept(before)
    assert len(served.running.sessions.engine.slot_pool) == 0
    # It saw the conversation all the same: the reply is the one of a turn that is kept.
    assert (await api.say(TEXT + TEXT)).text == plain.text


async def test_without_learning_the_context_advances_and_nothing_is_taught(api: Api) -> None:
    await api.say("My name is Ada.")
    before = await api.get()
    result = await api.say(TEXT + TEXT, learn=False)
    assert result.usage.learnable_tokens == 0
    assert not result.usage.HasField("surprise_nats")
    await api.ingest([TEXT.encode() * 4], learn=False, keep_open=True)
    after = await api.learnt()
    assert after.log_records == before.log_records + 2
    assert (after.levels, after.learnable_tokens, after.pending_tokens, after.memory_version) == (
        before.levels,
        before.learnable_tokens,
        before.pending_tokens,
        before.memory_version,
    )


async def test_scores_change_nothing(api: Api) -> None:
    await api.say("Hello.")
    before = await api.get()
    score = await api.score(" and so on.", context="Once upon a time")
    assert score.tokens > 0
    assert score.total_nats > 0
    assert kept(await api.get()) == kept(before)


async def test_logprobs_come_with_the_text_and_with_its_repeat(api: Api) -> None:
    request = api.asking("Hello.", request_id="turn-1", temperature=1.0, seed=3, logprobs=2)

    async def told() -> list[pb.TokenLogprobs]:
        deltas = [event.delta for event in await api.events(request)]
        assert all(delta.tokens == len(delta.logprobs) for delta in deltas)
        return [each for delta in deltas for each in delta.logprobs]

    logprobs = await told()
    assert logprobs
    for each in logprobs:
        assert len(each.top) == 2
        assert each.top[0].logprob >= each.top[1].logprob
        assert each.chosen.logprob <= each.top[0].logprob <= 0
    assert await told() == logprobs


# Repeats


async def test_a_repeated_request_is_answered_again_and_learnt_once(api: Api) -> None:
    request = api.asking(TEXT + TEXT, request_id="turn-1", temperature=1.0)
    first = (await api.events(request))[-1].result
    before = await api.learnt()
    events = await api.events(request)
    result = events[-1].result
    assert result.replayed
    assert not first.replayed
    assert result.text == first.text == "".join(event.delta.text for event in events[:-1])
    assert result.usage.output_tokens == first.usage.output_tokens
    assert kept(await api.learnt()) == kept(before)


async def test_repeats_at_the_same_time_are_one_turn(api: Api) -> None:
    request = api.asking("Hello.", request_id="same", temperature=1.5)
    several = await asyncio.gather(*[api.events(request) for _ in range(4)])
    results = [events[-1].result for events in several]
    assert {result.text for result in results} == {results[0].text}
    assert sorted(result.replayed for result in results) == [False, True, True, True]
    assert (await api.get()).log_records == 1


async def test_an_id_is_for_one_request_only(api: Api) -> None:
    await api.say("Hello.", request_id="turn-1")
    before = await api.get()
    async with refused(INVALID, "INVALID_REQUEST", "request_id"):
        await api.say("Something else.", request_id="turn-1")
    assert kept(await api.get()) == kept(before)
    other = api.on("other")
    await other.create()
    assert not (await other.say("Hello.", request_id="turn-1")).replayed


# Going away


async def test_a_cancelled_turn_leaves_no_trace(served: Served, api: Api) -> None:
    await api.say("Hello.")
    before = await api.get()
    call = api.inference.Generate(api.asking(TEXT, max_tokens=5000))
    assert (await call.read()).delta.text
    call.cancel()
    await api.score("x")  # waits for the turn to let go
    assert kept(await api.get()) == kept(before)
    assert served.running.sessions.engine.slot_pool.held == 0


async def test_a_client_that_vanishes_leaves_no_trace(serve: Serve) -> None:
    async with serve() as served:
        await served.api.create()
        before = await served.api.get()
        channel = connect(served.running.port)
        call = Api(channel).inference.Generate(served.api.asking(TEXT, max_tokens=5000))
        assert (await call.read()).delta.text
        await channel.close()
        await served.api.score("x")
        assert kept(await served.api.get()) == kept(before)


async def test_a_deadline_ends_a_turn_and_leaves_no_trace(served: Served, api: Api) -> None:
    before = await api.get()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await api.events(api.asking(TEXT, max_tokens=100_000), timeout=0.5)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await api.score("x")
    assert kept(await api.get()) == kept(before)
    assert served.running.sessions.engine.slot_pool.held == 0


async def test_a_reader_that_stalls_holds_up_nobody_else(served: Served, api: Api) -> None:
    other = api.on("other")
    await other.create()
    stalled = api.inference.Generate(api.asking("Hi", max_tokens=100_000))
    assert (await stalled.read()).delta.text
    for _ in range(3):
        assert (await other.say("Hello.")).usage.output_tokens == 6
    assert not stalled.done()
    stalled.cancel()


async def test_a_reply_that_nobody_reads_gives_its_slot_back(
    serve: Serve, chat_model: BaseModel
) -> None:
    slot = KVCache.bytes_of(chat_model.config, WINDOW, chat_model.dtype)
    async with serve(window_cache_bytes=slot, stalled_stream_seconds=0.3) as served:
        api, other = served.api, served.api.on("other")
        await api.create()
        await other.create()
        stalled = api.inference.Generate(api.asking("Hi", max_tokens=100_000, logprobs=20))
        event = await stalled.read()
        assert (await other.say("Hello.")).usage.output_tokens == 6
        async with refused(grpc.StatusCode.ABORTED, "STALLED_STREAM"):
            while not event.HasField("result"):
                event = await stalled.read()
        assert (await api.get()).log_records == 0


# Sessions


async def test_a_new_conversation_begins_with_what_the_others_taught(api: Api) -> None:
    await api.say("My name is Ada.")
    events = await api.events(api.asking("What is my name?", conversation="work"))
    assert events[0].status.status == pb.STATUS_LEARNING
    assert events[-1].result.usage.memory_version == 1
    assert (await api.get()).levels[0].updates == 1


async def test_a_refused_turn_in_a_new_conversation_teaches_nothing(api: Api) -> None:
    await api.say("My name is Ada.")
    before = await api.get()
    async with refused(INVALID, "WINDOW_OVERFLOW", "messages"):
        await api.say("word " * 500, conversation="work")
    assert kept(await api.get()) == kept(before)
