"""Requests for responses that are wrong or meant badly: each has its status, nothing changes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from gateway import Gateway, assistant, user
from hostile import HELLO, error_of

from server.http_api.response_ids import ResponseId

PATH = "/v1/responses"
IMAGE = {"type": "input_image", "image_url": "data:,"}
FILE = {"type": "input_file", "file_id": "file-1"}


@pytest.fixture
async def unchanged(gateway: Gateway) -> AsyncIterator[Gateway]:
    """A server whose session must be what it was at the end of the test."""
    before = await gateway.api.get()
    yield gateway
    assert await gateway.api.get() == before


def asking(**fields: Any) -> dict[str, Any]:
    return {"model": "hope/diary", "input": "Hello", "max_output_tokens": 6} | fields


def made_up(session: str, conversation: str = "default") -> str:
    return str(ResponseId(session, conversation, bytes(16)))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"input": ""}, "input"),
    ({"input": None}, "input"),
    ({"input": []}, "input"),
    ({"input": ["Hello"]}, "input[0]"),
    ({"input": [{"content": "Hello"}]}, "input[0].role"),
    ({"input": [{"role": "tool", "content": "Hello"}]}, "input[0].role"),
    ({"input": [HELLO, assistant("Hi")]}, "input"),
    ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].type"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
    ({"input": [{"role": "user", "content": [IMAGE]}]}, "input[0].content[0]"),
    ({"input": [HELLO, {"role": "user", "content": [FILE]}]}, "input[1].content[0]"),
    ({"tools": [{"type": "web_search"}]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"reasoning": {"effort": "low"}}, "reasoning"),
    ({"background": True}, "background"),
    ({"include": ["message.output_text.logprobs"]}, "include"),
    ({"prompt": {"id": "pmpt_1"}}, "prompt"),
    ({"text": {"format": {"type": "json_schema"}}}, "text.format"),
    ({"text": {"format": "text"}}, "text.format"),
    ({"text": {"verbosity": "low"}}, "text.verbosity"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"max_output_tokens": "many"}, "max_output_tokens"),
    ({"temperature": 3}, "temperature"),
    ({"metadata": {"deep": {"x": 1}}}, "metadata.deep"),
    ({"conversation": {"name": "x"}}, "conversation"),
    ({"store": False, "hope": {"learn": True}}, "hope.learn"),
    ({"previous_response_id": made_up("other")}, "previous_response_id"),
    ({"previous_response_id": made_up("diary"), "model": "chat"}, "previous_response_id"),
    ({"previous_response_id": made_up("diary"), "conversation": "x"}, "conversation"),
    ({"previous_response_id": made_up("diary"), "hope": {"conversation": "x"}},
     "hope.conversation"),
    ({"previous_response_id": made_up("diary"), "hope": {"at_version": 0}}, "hope.at_version"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "param"), REFUSED)
async def test_what_cannot_be_answered_is_refused(
    unchanged: Gateway, change: dict[str, Any], param: str
) -> None:
    response = await unchanged.post(asking() | change, PATH)
    assert response.status_code == 400
    error = error_of(response)
    assert (error["type"], error["param"]) == ("invalid_request_error", param), error


@pytest.mark.parametrize(
    "previous", ["", "resp_1", "resp_" + "A" * 5000, "resp_ä", made_up("diary"), made_up("absent")]
)
@pytest.mark.parametrize("store", [True, False])
async def test_made_up_ids_are_of_nothing(unchanged: Gateway, previous: str, store: bool) -> None:
    body = asking(model="hope", previous_response_id=previous, store=store, stream=True)
    response = await unchanged.post(body, PATH)
    assert response.status_code == 404
    error = error_of(response)
    assert (error["param"], error["code"]) == (
        "previous_response_id",
        "previous_response_not_found",
    )


async def test_an_id_of_somebody_else_is_of_nothing(gateway: Gateway) -> None:
    """Sessions of that name belong to different users, each of whom names their own."""
    other = gateway.served.api.on("theirs")
    await other.create()
    await other.say("My dog is called Rolf.", conversation="talk")
    body = asking(model="hope", previous_response_id=made_up("theirs", "talk"))
    response = await gateway.post(body, PATH)
    assert response.status_code == 404


async def test_what_does_not_matter_is_ignored(gateway: Gateway) -> None:
    body = asking(
        input=[{"type": "message", **user("Hello")}],
        instructions=None,
        tools=[],
        tool_choice="auto",
        parallel_tool_calls=True,
        include=[],
        reasoning=None,
        background=False,
        truncation="auto",
        text={"format": {"type": "text"}},
        service_tier="auto",
        prompt_cache_key="x",
        safety_identifier="x",
        conversation={"id": "talk"},
        surprise="x",
    )
    response = await gateway.post(body, PATH)
    assert response.status_code == 200, response.text
    assert response.headers["hope-conversation"] == "talk"


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_responses_are_not_kept_by_id(unchanged: Gateway, method: str) -> None:
    response = await unchanged.client.request(method, f"{PATH}/{made_up('diary')}")
    assert response.status_code == 404
    assert error_of(response)["code"] == "response_not_kept"


async def test_other_methods_are_not_offered(unchanged: Gateway) -> None:
    response = await unchanged.client.get(PATH)
    assert response.status_code == 405
    assert error_of(response)["code"] == "method_not_allowed"
