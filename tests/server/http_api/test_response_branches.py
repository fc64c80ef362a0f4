"""Responses behind an older one: the window begins anew with what was said up to it, and what
taught once teaches nothing again."""

from __future__ import annotations

from typing import Any

import pytest
from gateway import Gateway, assistant, user
from responding import CAT, CHEESE, DOG, PATH, answered, asking, cached, learnt, told

from server.store.base import SessionKey

QUIET: dict[str, Any] = {"hope": {"learn": False}}
KEY = SessionKey("local", "diary")


def text_of(response: dict[str, Any]) -> str:
    text: str = response["output"][0]["content"][0]["text"]
    return text


async def window(gateway: Gateway, response: dict[str, Any]) -> str:
    """What the window of a response's conversation holds."""
    sessions = gateway.served.running.sessions
    memory = sessions.decode(await sessions.store.read_blobs(KEY))
    found = memory.conversations[response["conversation"]["id"]].window
    return sessions.tokenizer.decode(found.tokens)


async def is_unknown(gateway: Gateway, response: dict[str, Any]) -> bool:
    refused = await gateway.post(asking(CAT, previous_response_id=response["id"]), PATH)
    error = refused.json().get("error") or {}
    assert (refused.status_code, error.get("code")) in (
        (200, None),
        (404, "previous_response_not_found"),
    )
    return refused.status_code == 404


async def test_a_branch_is_what_it_would_have_been(gateway: Gateway) -> None:
    first = await answered(gateway, DOG, instructions="Be brief.", **QUIET)
    await answered(gateway, CHEESE, previous_response_id=first["id"], **QUIET)
    branch = await answered(gateway, CAT, previous_response_id=first["id"], **QUIET)
    assert branch["conversation"] == first["conversation"]
    assert branch["id"] != first["id"]
    assert branch["previous_response_id"] == first["id"]
    assert cached(branch) == 0
    # Another conversation, in which nothing came between.
    twin = await answered(
        gateway, DOG, instructions="Be brief.", conversation="undisturbed", **QUIET
    )
    went_on = await answered(gateway, CAT, previous_response_id=twin["id"], **QUIET)
    assert await window(gateway, branch) == await window(gateway, went_on)
    assert text_of(branch) == text_of(went_on)
    assert branch["usage"]["input_tokens"] == went_on["usage"]["input_tokens"]


async def test_branches_teach_each_message_once(gateway: Gateway) -> None:
    first = await answered(gateway, DOG)
    second = await answered(gateway, CHEESE, previous_response_id=first["id"])
    again = await answered(gateway, CHEESE, previous_response_id=first["id"])
    assert again["hope"]["learnable_tokens"] == 0
    branch = await answered(gateway, CAT, previous_response_id=first["id"])
    assert branch["hope"]["learnable_tokens"] > 0
    assert CHEESE not in await window(gateway, branch)
    # To and fro between the branches; only what is new in one teaches.
    third = await answered(gateway, CAT, previous_response_id=second["id"])
    assert third["hope"]["learnable_tokens"] > 0
    assert DOG in await window(gateway, third)
    assert CHEESE in await window(gateway, third)
    for previous in (first, second):
        back = await answered(gateway, CAT, previous_response_id=previous["id"])
        assert back["hope"]["learnable_tokens"] == 0
    # The newest of them goes on in its window.
    last = await answered(gateway, DOG, previous_response_id=back["id"])
    assert cached(last) > 0
    assert await learnt(gateway) == await told(gateway, DOG, CHEESE, CAT, CAT, DOG)
    assert len((await gateway.api.get()).conversations) == 1


async def test_histories_and_branches_teach_once_together(gateway: Gateway) -> None:
    talk: dict[str, Any] = {"conversation": "talk"}
    first = await answered(gateway, DOG, **talk)
    whole = [user(DOG), assistant("(cut)"), user(CHEESE)]
    await answered(gateway, whole, **talk)
    again = await answered(gateway, CHEESE, previous_response_id=first["id"])
    assert again["hope"]["learnable_tokens"] == 0
    await answered(gateway, CAT, previous_response_id=first["id"])
    sent = await answered(gateway, [user(DOG), assistant("(cut)"), user(CAT)], **talk)
    assert sent["hope"]["learnable_tokens"] == 0
    assert await learnt(gateway) == await told(gateway, DOG, CHEESE, CAT)


async def test_instructions_take_the_place_of_those_before(gateway: Gateway) -> None:
    first = await answered(gateway, DOG, instructions="Be brief.")
    await answered(gateway, CHEESE, previous_response_id=first["id"])
    fields = {"previous_response_id": first["id"], "instructions": "Be kind."}
    found = await window(gateway, await answered(gateway, CAT, **fields))
    assert "Be kind." in found
    assert "Be brief." not in found
    assert found.index("Be kind.") < found.index(DOG) < found.index(CAT)


async def test_a_turn_of_another_route_is_left_out(gateway: Gateway) -> None:
    first = await answered(gateway, DOG)
    await gateway.api.say(CHEESE, conversation=first["conversation"]["id"])
    branch = await answered(gateway, CAT, previous_response_id=first["id"])
    assert CHEESE not in await window(gateway, branch)
    assert text_of(first) in await window(gateway, branch)


async def test_a_window_that_was_dropped_comes_back(gateway: Gateway) -> None:
    first = await answered(gateway, DOG)
    for number in range(8):
        await gateway.api.say("Hello.", conversation=f"other-{number}", max_tokens=1)
    name = first["conversation"]["id"]
    assert name not in (await gateway.api.get()).conversations
    second = await answered(gateway, CHEESE, previous_response_id=first["id"])
    assert DOG in await window(gateway, second)
    # A turn that came when the window was gone saw nothing of before, and neither do its branches.
    await gateway.api.end_conversation(conversation=name)
    third = await answered(gateway, CAT, conversation=name)
    await answered(gateway, "Hello.", previous_response_id=third["id"])
    branch = await answered(gateway, "Who are you?", previous_response_id=third["id"])
    assert DOG not in await window(gateway, branch)
    assert CAT in await window(gateway, branch)


async def test_an_ended_conversation_is_taken_up_again(gateway: Gateway) -> None:
    first = await answered(gateway, DOG)
    await gateway.api.end_conversation(conversation=first["conversation"]["id"])
    second = await answered(gateway, CHEESE, previous_response_id=first["id"])
    assert DOG in await window(gateway, second)
    assert await learnt(gateway) == await told(gateway, DOG, CHEESE)


async def test_as_much_of_a_long_history_as_the_window_holds(gateway: Gateway) -> None:
    previous = await answered(gateway, "The first of many. " + DOG, **QUIET)
    for number in range(12):
        text = f"Number {number}: {CHEESE} {CAT}"
        previous = await answered(gateway, text, previous_response_id=previous["id"], **QUIET)
    await answered(gateway, DOG, previous_response_id=previous["id"], **QUIET)
    branch = await answered(gateway, CAT, previous_response_id=previous["id"], **QUIET)
    found = await window(gateway, branch)
    assert "Number 11" in found
    assert "The first of many" not in found


async def test_what_a_rollback_or_a_forgetting_took_back_is_unknown(gateway: Gateway) -> None:
    first = await answered(gateway, DOG)
    await gateway.api.consolidate()
    version = (await gateway.api.get()).memory_version
    second = await answered(gateway, CHEESE, previous_response_id=first["id"])
    await gateway.api.rollback(version=version)
    assert await is_unknown(gateway, second)
    third = await answered(gateway, CHEESE, previous_response_id=first["id"])
    assert third["hope"]["learnable_tokens"] > 0  # for the rollback took it back
    (cheese,) = [each.id for each in await gateway.api.statements("cheese")]
    await gateway.api.forget_statements(cheese)
    assert await is_unknown(gateway, third)
    assert not await is_unknown(gateway, first)  # it is from before
    # The remedy teaches nothing again, and can be followed.
    messages = [user(DOG), assistant("(cut)"), user(CHEESE), assistant("(cut)"), user("Hello.")]
    found = await answered(gateway, messages, conversation=first["conversation"]["id"])
    assert not await is_unknown(gateway, found)
    texts = {each.text for each in await gateway.api.statements()}
    assert texts == {DOG, "Hello.", CAT}


@pytest.mark.parametrize("header", ["retry", "key"])
async def test_a_lost_branch_is_given_again(gateway: Gateway, header: str) -> None:
    first = await answered(gateway, DOG)
    await answered(gateway, CHEESE, previous_response_id=first["id"])
    body = {"previous_response_id": first["id"], "temperature": 1.5}
    headers = [
        {"x-stainless-retry-count": str(at)} if header == "retry" else {"idempotency-key": "k-1"}
        for at in range(2)
    ]
    branch = await answered(gateway, CAT, **body, headers=headers[0])
    again = await answered(gateway, CAT, **body, headers=headers[1])
    assert again["hope"]["replayed"]
    assert (again["id"], text_of(again)) == (branch["id"], text_of(branch))
    assert await learnt(gateway) == await told(gateway, DOG, CHEESE, CAT)


async def test_a_branch_that_is_not_stored_leaves_nothing(gateway: Gateway) -> None:
    first = await answered(gateway, DOG)
    second = await answered(gateway, CHEESE, previous_response_id=first["id"])
    before = await gateway.api.learnt()
    held = await window(gateway, second)
    side = await answered(gateway, CAT, previous_response_id=first["id"], store=False)
    assert side["hope"]["learnable_tokens"] == 0
    assert await window(gateway, second) == held
    after = await gateway.api.learnt()
    assert (after.memory_hash, after.log_records) == (before.memory_hash, before.log_records)
    assert await is_unknown(gateway, side)
    assert cached(await answered(gateway, CAT, previous_response_id=second["id"])) > 0
