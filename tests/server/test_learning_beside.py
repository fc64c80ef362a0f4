"""Replies beside learning: a turn waits only so long, says so, and the levels are the same."""

from __future__ import annotations

from serving import Serve, Served
from test_turn_events import KEY, TEXT, asking

from server.app import events, generation, turns
from server.store.base import SessionKey

ASKED = ("Hello.", "And then?", "What does he like?")


async def answered(served: Served, key: SessionKey, text: str) -> events.Finished:
    *_, last = [
        event async for event in generation.generate(served.running.sessions, key, asking(text))
    ]
    assert isinstance(last, events.Finished)
    return last


async def life(serve: Serve, name: str, seconds: float) -> tuple[str, list[bool], list[int]]:
    """The digest of the levels after a few turns that each come at once, whether each met learning,
    and the versions that answered."""
    async with serve(learning_wait_seconds=seconds) as served:
        api, key = served.api.on(name), SessionKey("ada", name)
        await api.create()
        await api.say(TEXT * 12)  # beyond a boundary: learnt behind the reply
        found = [await answered(served, key, text) for text in ASKED]
        await turns.end_conversation(served.running.sessions, key, "default", wait=True)
        async with served.running.sessions.exclusive(key) as resident:
            levels = resident.memory.levels_digest()
        return (
            levels,
            [each.learning for each in found],
            [each.usage.memory_version for each in found],
        )


async def test_a_reply_beside_learning_leaves_the_same_levels(serve: Serve) -> None:
    patient = await life(serve, "patient", 600.0)
    hasty = await life(serve, "hasty", 0.0)
    assert patient[1] == [False] * 3
    assert hasty[1][0]
    assert hasty[2][0] < patient[2][0]
    assert hasty[0] == patient[0]


async def test_a_new_conversation_begins_beside_learning(serve: Serve) -> None:
    """What is pending is made due as ever; the reply does not wait for it."""
    async with serve(learning_wait_seconds=0.0) as served:
        api = served.api
        await api.create()
        await api.say(TEXT)
        other = asking("Hello.")
        *_, finished = [
            event
            async for event in generation.generate(
                served.running.sessions, KEY, type(other)("other", other.messages, other.sampling)
            )
        ]
        assert isinstance(finished, events.Finished)
        assert finished.learning
        await turns.consolidate(served.running.sessions, KEY)
        assert (await api.get()).memory_version > finished.usage.memory_version


async def test_the_wire_says_that_the_session_learns(serve: Serve) -> None:
    async with serve(learning_wait_seconds=0.0) as served:
        api = served.api
        await api.create()
        first = await api.say(TEXT * 12)
        second = await api.say("Hello.")
        assert (first.learning, second.learning) == (False, True)
