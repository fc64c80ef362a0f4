"""Kept versions of a memory over gRPC: they answer and score as over HTTP, and leave nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from api import refused
from gateway import FEW_TOKENS, Gateway, user
from hope.v1 import sessions_pb2

DOG = "My dog is called Rolf, and he likes cheese. "
BOAT = "Ada built a wooden boat in Norway. "
ASKED = "What is my dog called?"
INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
SCORE = "/v1/sessions/diary/score"
# The versions that had learnt of the dog, and of both.
DOGS, BOTH = 2, 4


@pytest.fixture
async def learned(gateway: Gateway) -> AsyncIterator[Gateway]:
    """A server whose session learnt of a dog, then of a boat. It must be what it was at the end of
    the test."""
    for conversation, text, version in (("dogs", DOG, DOGS), ("boats", BOAT, BOTH)):
        await gateway.api.say(text * 4, conversation=conversation)
        await gateway.api.consolidate()
        before = await gateway.api.get()
        assert before.memory_version == version
    yield gateway
    assert await gateway.api.get() == before


@pytest.mark.parametrize("version", [0, DOGS, BOTH])
async def test_a_reply_is_that_of_http(learned: Gateway, version: int) -> None:
    answer = await learned.chat(user(ASKED), hope={"at_version": version}, logprobs=True)
    result = await learned.api.say(ASKED, at_version=version)
    assert result.text == answer["choices"][0]["message"]["content"]
    assert result.usage.memory_version == answer["hope"]["memory_version"] == version
    assert result.usage.learnable_tokens == 0
    assert result.usage.output_tokens == FEW_TOKENS
    assert not result.replayed


async def logprobs(gateway: Gateway, **fields: Any) -> list[float]:
    events = await gateway.api.events(gateway.api.asking(ASKED, logprobs=0, **fields))
    return [each.chosen.logprob for event in events for each in event.delta.logprobs]


async def test_each_version_answers_with_its_own_memory(learned: Gateway) -> None:
    found = [await logprobs(learned, at_version=version) for version in (0, DOGS, BOTH)]
    assert found[0] != found[1] != found[2] != found[0]
    now = await logprobs(learned, ephemeral=True, conversation="new")
    assert now == pytest.approx(found[2], abs=1e-5)


async def test_version_0_is_the_base_model(learned: Gateway) -> None:
    alone = await learned.chat(user(ASKED), model="chat")
    answer = await learned.api.say(ASKED, at_version=0)
    assert answer.text == alone["choices"][0]["message"]["content"]
    frozen = await learned.api.score(DOG, frozen=True)
    at_first = await learned.api.score(DOG, at_version=0)
    assert (at_first.tokens, at_first.total_nats) == (frozen.tokens, frozen.total_nats)
    assert at_first.memory_version == 0


async def test_scores_tell_versions_apart(learned: Gateway) -> None:
    base, first, second = [
        await learned.api.score(BOAT, context=DOG, at_version=version)
        for version in (0, DOGS, BOTH)
    ]
    assert [each.memory_version for each in (base, first, second)] == [0, DOGS, BOTH]
    assert len({each.total_nats for each in (base, first, second)}) == 3
    now = await learned.api.score(BOAT, context=DOG)
    assert now == second
    body = {"text": BOAT, "context": DOG, "at_version": DOGS}
    answer = await learned.client.post(SCORE, json=body)
    assert answer.json()["total_nats"] == first.total_nats


async def test_a_version_is_asked_while_the_session_is_busy(learned: Gateway) -> None:
    """Versions never change, so nobody who asks one waits for the session."""
    sessions = learned.served.running.sessions
    key = sessions.resident_summaries()[0][0]
    async with sessions.exclusive(key):
        assert (await learned.api.score(BOAT, at_version=DOGS)).memory_version == DOGS
        assert (await learned.api.say(ASKED, at_version=DOGS)).usage.memory_version == DOGS


async def test_a_later_rollback_leaves_an_earlier_version_to_ask(gateway: Gateway) -> None:
    api = gateway.api
    await api.say(DOG * 4)
    await api.consolidate()
    first = await api.say(ASKED, at_version=DOGS)
    await api.rollback(version=0)
    assert (await api.say(ASKED, at_version=DOGS)).text == first.text
    assert (await api.get()).memory_version == DOGS + 1


@pytest.mark.parametrize("version", [BOTH + 1, 2**64 - 1])
async def test_a_version_that_is_not_kept_is_refused(learned: Gateway, version: int) -> None:
    async with refused(INVALID, "INVALID_REQUEST", "at_version"):
        await learned.api.say(ASKED, at_version=version)
    async with refused(INVALID, "INVALID_REQUEST", "at_version"):
        await learned.api.score(BOAT, at_version=version)


@pytest.mark.parametrize(
    "beside",
    [{"learn": True}, {"ephemeral": False}, {"request_id": "once"}, {"conversation": "dogs"}],
)
async def test_what_only_a_kept_turn_has_is_refused(
    learned: Gateway, beside: dict[str, Any]
) -> None:
    async with refused(INVALID, "INVALID_REQUEST", "at_version"):
        await learned.api.say(ASKED, at_version=DOGS, **beside)


async def test_a_message_that_should_teach_is_refused(learned: Gateway) -> None:
    request = learned.api.asking(ASKED, at_version=DOGS)
    request.messages[0].learn = True
    async with refused(INVALID, "INVALID_REQUEST", "at_version"):
        await learned.api.events(request)


async def test_a_frozen_version_is_refused(learned: Gateway) -> None:
    async with refused(INVALID, "INVALID_REQUEST", "at_version"):
        await learned.api.score(BOAT, at_version=DOGS, frozen=True)


@pytest.mark.parametrize(
    "options", [{"learn": True}, {"ephemeral": False}, {"conversation": "dogs"}]
)
async def test_over_http_as_well(learned: Gateway, options: dict[str, Any]) -> None:
    refusal = await learned.post(learned.body(user(ASKED), hope={"at_version": DOGS} | options))
    assert refusal.status_code == 400
    error = refusal.json()["error"]
    (name,) = options
    assert error["param"] == "hope.at_version"
    assert f"combined with {name}" in error["message"]


async def test_what_says_nothing_more_is_taken(learned: Gateway) -> None:
    plain = await learned.api.say(ASKED, at_version=DOGS)
    for beside in ({"learn": False}, {"ephemeral": True}):
        assert (await learned.api.say(ASKED, at_version=DOGS, **beside)).text == plain.text


async def test_a_session_that_does_not_exist_has_no_versions(learned: Gateway) -> None:
    nobody = learned.api.on("absent")
    for version in (0, DOGS):
        async with refused(NOT_FOUND, "SESSION_NOT_FOUND"):
            await nobody.say(ASKED, at_version=version)
        async with refused(NOT_FOUND, "SESSION_NOT_FOUND"):
            await nobody.score(BOAT, at_version=version)
    request = sessions_pb2.ListSessionsRequest(parent="users/local")
    assert len((await learned.api.sessions.ListSessions(request)).sessions) == 1
