"""Turns without a transport: the events that server/app hands out, and how they are stored."""

from __future__ import annotations

import asyncio
from typing import Any

from api import Api
from hope.v1 import inference_pb2 as pb
from serving import Served

from hope_runtime.engine.prompt import Message
from hope_runtime.engine.reply import FinishReason
from hope_runtime.engine.sampling import Sampling
from hope_runtime.engine.turn import GenerateTurn
from server.app import events, generation, ingest
from server.app.replies import RequestId
from server.grpc_api.turn_messages import MessageCodec, Statuses
from server.store.base import SessionKey

KEY = SessionKey("ada", "diary")
TEXT = "My dog Rolf is nine years old. He likes cheese and rain. "


def asking(text: str, **sampling: Any) -> GenerateTurn:
    options = {"max_tokens": 6, "temperature": 0.0} | sampling
    return GenerateTurn("default", (Message("user", text),), Sampling(**options))


async def test_a_turn_is_text_and_then_its_end(served: Served, api: Api) -> None:
    sessions = served.running.sessions
    request = RequestId("once", b"digest")
    turn = asking("Hello.", logprobs=1)
    first = [event async for event in generation.generate(sessions, KEY, turn, request=request)]
    began, *deltas, finished = first
    assert began == events.Began(0)
    assert isinstance(finished, events.Finished)
    texts = [delta for delta in deltas if isinstance(delta, events.TextDelta)]
    assert len(texts) == len(deltas) > 0
    assert "".join(delta.text for delta in texts) == finished.text
    assert finished.reason is FinishReason.LENGTH
    assert finished.usage.output_tokens == sum(delta.tokens for delta in texts) == 6
    chosen = [each.chosen for delta in texts for each in delta.logprobs]
    assert b"".join(each.text for each in chosen).decode(errors="replace") == finished.text
    again = [event async for event in generation.generate(sessions, KEY, turn, request=request)]
    assert again[0] == began
    assert isinstance(again[1], events.TextDelta)
    assert isinstance(again[-1], events.Finished)
    assert again[1].text == finished.text
    assert again[-1].replayed
    assert (await api.get()).log_records == 1


async def test_who_waits_is_told_which_level_learns(served: Served, api: Api) -> None:
    sessions = served.running.sessions
    await api.say(TEXT * 8)  # beyond a boundary: learnt behind the reply
    waited = [
        event
        async for event in generation.generate(sessions, KEY, asking("Hello."))
        if isinstance(event, events.Learning)
    ]
    assert [(event.level, event.fraction) for event in waited][:1] == [(0, None)]


async def test_an_ingest_tells_that_it_waits_while_it_does(served: Served, api: Api) -> None:
    sessions = served.running.sessions

    async def parts() -> Any:
        yield TEXT.encode()
        yield ingest.End()

    reading = ingest.ingest(
        sessions, KEY, parts(), conversation="a", document="b", offset_bytes=0, learn=True
    )
    async with sessions.exclusive(KEY):
        assert await asyncio.wait_for(anext(reading), 30) == events.Queued()
    *_, progress, done = [event async for event in reading]
    assert isinstance(progress, events.IngestProgress)
    assert isinstance(done, events.Ingested)
    assert done.ended
    assert done.committed_bytes == progress.committed_bytes == len(TEXT)
    assert done.surprise_nats == progress.surprise_nats


def test_replies_as_they_are_stored() -> None:
    """Stores hold such bytes for a day, whatever program wrote them."""
    token = pb.TokenLogprob(token=7, text=b"\xc3", logprob=-0.5)
    delta = pb.TextDelta(
        text="Hi", tokens=2, logprobs=[pb.TokenLogprobs(chosen=token, top=[token])]
    )
    usage = pb.Usage(input_tokens=5, output_tokens=2, learnable_tokens=3, memory_version=4)
    usage.surprise_nats = 1.5
    usage.prefill_time.FromMicroseconds(123_457)
    usage.decode_time.FromMicroseconds(9)
    usage.queue_time.FromMicroseconds(0)
    result = pb.GenerateResult(finish_reason=pb.FINISH_REASON_STOP, usage=usage, text="Hi")
    head = delta.SerializeToString()
    stored = len(head).to_bytes(4, "big") + head + result.SerializeToString()
    codec = MessageCodec()
    text, finished = codec.decode(stored)
    assert finished.replayed
    assert (text.text, finished.text, finished.usage.memory_version) == ("Hi", "Hi", 4)
    assert text.logprobs[0].chosen == events.TokenLogprob(7, b"\xc3", -0.5)
    fresh = events.Finished(finished.reason, finished.text, finished.usage)
    assert codec.encode(text, fresh) == stored


def test_a_status_is_sent_when_it_changes() -> None:
    told = Statuses()
    queued, text = events.Queued(), events.TextDelta("a", 1)
    parts = (None, 0.5, 0.51, 0.6)
    learning = [*(events.Learning(0, part) for part in parts), events.Learning(1)]
    shown = [
        event
        for event in (queued, queued, *learning, events.Began(1), text, text, queued)
        if told.is_new(event)
    ]
    less = [each for each in learning if each.fraction != 0.51]
    assert shown == [queued, *less, text, text, queued]
