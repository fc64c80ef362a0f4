"""Responses over HTTP: the official client, the events of a stream, and turns that follow."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest
from gateway import FEW_TOKENS, NAME, SESSION, Gateway, assistant, user
from openai.types.responses import Response, ResponseOutputMessage
from responding import CAT, CHEESE, DOG, MODEL, PATH, answered, asking, cached, learnt, told

from server.http_api.response_ids import ResponseId, parse_id, passing_id

BEFORE_TEXT = ["created", "in_progress", "output_item.added", "content_part.added"]
BEHIND_TEXT = ["output_text.done", "content_part.done", "output_item.done"]


def client_of(gateway: Gateway) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0)


def events_of(text: str) -> list[dict[str, Any]]:
    """Events of a stream, whose names must be those in their data, counted without a gap."""
    found = []
    for block in text.split("\n\n"):
        if block and block[0] != ":":
            name, data = block.split("\n")
            found.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {found[-1]['type']}"
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


async def test_openai_async(gateway: Gateway) -> None:
    client = client_of(gateway)
    first = await client.responses.create(
        model=MODEL,
        input=DOG,
        instructions="Be brief.",
        max_output_tokens=FEW_TOKENS,
        metadata={"place": "test"},
    )
    assert first.status == "incomplete"
    assert first.incomplete_details
    assert first.incomplete_details.reason == "max_output_tokens"
    assert first.output_text
    assert first.metadata == {"place": "test"}
    assert first.usage
    assert first.usage.output_tokens == FEW_TOKENS
    assert first.model_extra
    assert first.model_extra["hope"]["learnable_tokens"] > 0
    second = await client.responses.create(
        model=MODEL,
        input=[{"role": "user", "content": [{"type": "input_text", "text": CHEESE}]}],
        previous_response_id=first.id,
        max_output_tokens=FEW_TOKENS,
    )
    assert second.previous_response_id == first.id
    assert second.usage
    assert second.usage.input_tokens_details.cached_tokens > 0
    assert await learnt(gateway) == await told(gateway, DOG, CHEESE)


async def test_the_stream_of_the_official_client(gateway: Gateway) -> None:
    client = client_of(gateway)
    asked: dict[str, Any] = {
        "model": MODEL,
        "input": DOG,
        "max_output_tokens": FEW_TOKENS,
        "extra_body": {"hope": {"learn": False}},
    }
    whole = await client.responses.create(**asked)
    # It raises for a reply that was cut, so this one ends by itself.
    asked["extra_body"]["stop"] = whole.output_text[-3:]
    async with client.responses.stream(**asked) as stream:
        kinds = [event.type async for event in stream]
        done = await stream.get_final_response()
    assert "response.output_text.delta" in kinds
    assert kinds[-1] == "response.completed"
    assert done.output_text
    assert whole.output_text.startswith(done.output_text)
    assert done.id != whole.id


async def test_openai_sync(gateway: Gateway) -> None:
    def ask() -> tuple[Response, list[Any]]:
        with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="any") as client:
            whole = client.responses.create(model=MODEL, input=DOG, max_output_tokens=FEW_TOKENS)
            stream = client.responses.create(
                model=MODEL,
                input=CHEESE,
                previous_response_id=whole.id,
                max_output_tokens=FEW_TOKENS,
                stream=True,
            )
            return whole, list(stream)

    whole, streamed = await asyncio.to_thread(ask)
    (message,) = whole.output
    assert isinstance(message, ResponseOutputMessage)
    assert message.content[0].type == "output_text"
    assert streamed[-1].response.output_text
    assert streamed[-1].response.usage.input_tokens_details.cached_tokens > 0
    assert await learnt(gateway) == await told(gateway, DOG, CHEESE)


async def test_the_events_of_a_stream(gateway: Gateway) -> None:
    response = await gateway.post(asking(DOG, stream=True), PATH)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["hope-session"] == SESSION
    assert response.headers["hope-memory-version"] == "0"
    found = events_of(response.text)
    names = [event["type"].removeprefix("response.") for event in found]
    deltas = [event for event in found if event["type"] == "response.output_text.delta"]
    assert deltas
    assert names == [*BEFORE_TEXT, *["output_text.delta"] * len(deltas), *BEHIND_TEXT, "incomplete"]
    last = found[-1]["response"]
    (item,) = last["output"]
    text = "".join(event["delta"] for event in deltas)
    assert item["content"][0]["text"] == found[-4]["text"] == found[-3]["part"]["text"] == text
    assert found[-2]["item"] == item
    assert {event["item_id"] for event in found if "item_id" in event} == {item["id"]}
    assert found[0]["response"]["id"] == last["id"]
    assert found[0]["response"]["status"] == "in_progress"
    assert last["hope"]["session"] == NAME
    assert last["hope"]["conversation"] == last["conversation"]["id"]
    usage = last["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


async def test_a_reply_that_ends_by_itself_is_completed(gateway: Gateway) -> None:
    fields: dict[str, Any] = {"store": False}
    whole = await answered(gateway, DOG, **fields)
    text = whole["output"][0]["content"][0]["text"]
    ended = await answered(gateway, DOG, **fields, stop=text[-3:])
    assert ended["status"] == ended["output"][0]["status"] == "completed"
    assert ended["incomplete_details"] is None


async def test_each_turn_follows_on_the_one_before(gateway: Gateway) -> None:
    answer = await answered(gateway, DOG)
    before = cached(answer)
    assert before == 0
    for text in (CHEESE, CAT, CAT):
        answer = await answered(gateway, text, previous_response_id=answer["id"])
        assert cached(answer) > before
        assert answer["hope"]["learnable_tokens"] > 0
        before = cached(answer)
    assert await learnt(gateway) == await told(gateway, DOG, CHEESE, CAT, CAT)
    assert len((await gateway.api.get()).conversations) == 1


async def test_a_client_that_sends_everything_teaches_each_message_once(gateway: Gateway) -> None:
    """The input of a client that keeps its history itself, as for chat completions."""
    messages = [user(DOG)]
    for text in (CHEESE, CAT):
        answer = await answered(gateway, messages)
        reply = answer["output"][0]
        messages += [reply, user(text)]
    last = await answered(gateway, messages)
    assert cached(last) > 0
    assert (await answered(gateway, messages))["hope"]["learnable_tokens"] == 0
    assert await learnt(gateway) == await told(gateway, DOG, CHEESE, CAT)


async def test_following_and_sending_everything_teach_once_together(gateway: Gateway) -> None:
    first = await answered(gateway, DOG)
    second = await answered(gateway, CHEESE, previous_response_id=first["id"])
    conversation = second["conversation"]["id"]
    # The reply is to be made again, for which all is sent.
    messages = [user(DOG), assistant("(cut)"), user(CHEESE)]
    again = await answered(gateway, messages, conversation=conversation)
    assert again["hope"]["learnable_tokens"] == 0
    goes_on = await gateway.chat(
        *messages, assistant("(cut)"), user(CAT), hope={"conversation": conversation}
    )
    assert goes_on["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert await learnt(gateway) == await told(gateway, DOG, CHEESE, CAT)


@pytest.mark.parametrize("header", ["retry", "key"])
async def test_a_lost_response_is_given_again(gateway: Gateway, header: str) -> None:
    first = await answered(gateway, DOG)
    body = {"previous_response_id": first["id"], "temperature": 1.5}
    headers = [
        {"x-stainless-retry-count": str(at)} if header == "retry" else {"idempotency-key": "k-1"}
        for at in range(2)
    ]
    second = await answered(gateway, CHEESE, **body, headers=headers[0])
    again = await answered(gateway, CHEESE, **body, headers=headers[1])
    assert again["hope"]["replayed"]
    assert (again["id"], again["output"][0]["content"]) == (
        second["id"],
        second["output"][0]["content"],
    )
    await answered(gateway, CAT, previous_response_id=again["id"])
    assert await learnt(gateway) == await told(gateway, DOG, CHEESE, CAT)


async def test_what_is_not_stored_leaves_nothing(gateway: Gateway) -> None:
    first = await answered(gateway, DOG)
    before = await gateway.api.learnt()
    side = await answered(gateway, CHEESE, store=False, previous_response_id=first["id"])
    assert cached(side) > 0  # it sees the conversation
    assert side["store"] is False
    alone = await answered(gateway, CHEESE, store=False)
    base = await answered(gateway, CHEESE, model="chat")
    for each in (side, alone, base):
        assert each["hope"]["learnable_tokens"] == 0
        refused = await gateway.post(asking(CAT, previous_response_id=each["id"]), PATH)
        assert refused.status_code == 404
        assert refused.json()["error"]["code"] == "previous_response_not_found"
    after = await gateway.api.learnt()
    assert (after.memory_hash, after.log_records) == (before.memory_hash, before.log_records)
    assert cached(await answered(gateway, CHEESE, previous_response_id=first["id"])) > 0


def test_an_id_names_its_turn() -> None:
    named = ResponseId("diary", "Ein Gespräch", b"0123456789abcdef")
    assert parse_id(str(named)) == named
    for text in ("", "resp_", "resp_ä", "resp_AAAA", passing_id(), str(named)[1:], f"{named}!"):
        assert parse_id(text) is None
