"""Event streams: order, joined text, waiting for the reader, readers that stall or go away."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from server.app.event_stream import PLENTY, EventStream, StalledStreamError
from server.app.events import (
    GenerateEvent,
    IngestEvent,
    IngestProgress,
    Learning,
    Queued,
    TextDelta,
)


async def test_text_that_piled_up_is_one_event_and_the_order_stays() -> None:
    stream: EventStream[GenerateEvent] = EventStream()

    async def work() -> None:
        stream.put(Queued())
        stream.put(TextDelta("a", 1))
        stream.put(TextDelta("b", 2))
        stream.put(Learning(0, 0.5))
        stream.put(TextDelta("c", 1))

    found = [event async for event in stream.run(work())]
    assert found == [Queued(), TextDelta("ab", 3), Learning(0, 0.5), TextDelta("c", 1)]


async def test_text_from_another_thread_comes_before_the_end() -> None:
    stream: EventStream[GenerateEvent] = EventStream()

    def write() -> None:
        for _ in range(100):
            stream.put_threadsafe(TextDelta("x", 1))

    found = [event async for event in stream.run(asyncio.to_thread(write))]
    assert sum(event.tokens for event in found if isinstance(event, TextDelta)) == 100


async def test_what_ends_the_work_comes_after_its_events() -> None:
    stream: EventStream[GenerateEvent] = EventStream()

    async def work() -> None:
        stream.put(Queued())
        raise KeyError("why")

    async with aclosing(stream.run(work())) as events:
        assert await anext(events) == Queued()
        with pytest.raises(KeyError, match="why"):
            await anext(events)


async def test_work_may_wait_for_its_reader() -> None:
    stream: EventStream[IngestEvent] = EventStream()
    made: list[int] = []

    async def work() -> None:
        for number in range(3):
            made.append(number)
            stream.put(IngestProgress(number, number, 0, None))
            await stream.taken()

    async with aclosing(stream.run(work())) as events:
        async for event in events:
            assert isinstance(event, IngestProgress)
            for _ in range(10):
                await asyncio.sleep(0)
            assert made == list(range(event.tokens + 1))


async def test_a_reader_that_stalls_ends_the_work() -> None:
    stream: EventStream[GenerateEvent] = EventStream(stalled_seconds=0.05)
    ended = asyncio.Event()

    async def work() -> None:
        stream.put(Queued())
        await asyncio.sleep(0)
        for number in range(PLENTY):
            stream.put(Learning(number))
        assert stream.has_plenty
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with aclosing(stream.run(work())) as events:
        assert await anext(events) == Queued()
        await ended.wait()
        for number in range(PLENTY):  # what it had said by then is there all the same
            assert await anext(events) == Learning(number)
        with pytest.raises(StalledStreamError):
            await anext(events)


async def test_a_reader_that_waits_does_not_stall() -> None:
    stream: EventStream[GenerateEvent] = EventStream(stalled_seconds=0.01)

    async def work() -> None:
        await asyncio.sleep(0.1)
        stream.put(Queued())

    assert [event async for event in stream.run(work())] == [Queued()]


async def test_closing_the_stream_ends_the_work_first() -> None:
    stream: EventStream[GenerateEvent] = EventStream()
    ended = False

    async def work() -> None:
        nonlocal ended
        stream.put(Queued())
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)  # such as a commit that must not be left half done
            ended = True

    async with aclosing(stream.run(work())) as events:
        assert await anext(events) == Queued()
    assert ended
