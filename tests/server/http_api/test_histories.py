"""What chat UIs send, played again: every statement is learnt once, whatever they send again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from gateway import Gateway, ServeHttp, assistant, user

A = user("My dog is called Rolf.")
B = user("Rolf likes cheese and rain.")
C = user("Where does the cat of my aunt live?")
D = user("She lives in Bergen, by the harbour.")


async def counted(gateway: Gateway, *texts: str) -> int:
    """Tokens that texts teach, each told once by a client that sends only what is new."""
    api = gateway.api.on("counted")
    await api.create()
    return sum([(await api.say(text)).usage.learnable_tokens for text in texts])


async def learnt(gateway: Gateway) -> int:
    return (await gateway.api.get()).learnable_tokens


class Chat:
    """A chat in a UI: keeps the messages and sends all of them."""

    def __init__(self, gateway: Gateway, **fields: Any) -> None:
        self.gateway = gateway
        self.fields = {"headers": {"hope-conversation": "chat-1"}} | fields
        self.messages: list[dict[str, str]] = []

    async def say(self, message: dict[str, str]) -> dict[str, Any]:
        self.messages.append(message)
        return await self.again()

    async def again(self) -> dict[str, Any]:
        """Send what is there and keep the reply."""
        answer = await self.gateway.chat(*self.messages, **self.fields)
        self.messages.append(assistant(answer["choices"][0]["message"]["content"]))
        return answer


async def test_a_chat_goes_on_in_its_window(gateway: Gateway) -> None:
    chat = Chat(gateway)
    first = await chat.say(A)
    usage = first["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == 0
    second = await chat.say(B)
    cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
    # The window holds the first turn, its reply and the token that closes it.
    assert cached in (usage["total_tokens"], usage["total_tokens"] + 1)
    # A reply that the UI cut or rewrote, and another date in its system prompt, change nothing.
    chat.messages[1]["content"] = "(cut)"
    chat.messages.insert(0, {"role": "system", "content": "Today is Monday."})
    third = await chat.say(C)
    assert third["usage"]["prompt_tokens_details"]["cached_tokens"] > cached
    texts = [message["content"] for message in (A, B, C)]
    assert await learnt(gateway) == await counted(gateway, *texts)
    assert (await gateway.api.get()).conversations == ["chat-1"]


async def test_regenerate_edit_branch_and_trim(gateway: Gateway) -> None:
    chat = Chat(gateway)
    await chat.say(A)
    await chat.say(B)
    # Regenerate: the same history without the last reply.
    del chat.messages[-1]
    again = await chat.again()
    assert again["hope"]["learnable_tokens"] == 0
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    # Edit the last message: other text, learnt.
    chat.messages[2:] = []
    edited = await chat.say(C)
    assert edited["hope"]["learnable_tokens"] > 0
    # Branch at the first reply, with a text that taught there before.
    chat.messages[2:] = []
    assert (await chat.say(B))["hope"]["learnable_tokens"] == 0
    # Trim the front; then go on.
    del chat.messages[:2]
    await chat.say(D)
    assert (await chat.say(A))["hope"]["learnable_tokens"] > 0  # said anew, somewhere else
    texts = [message["content"] for message in (A, B, C, D, A)]
    assert await learnt(gateway) == await counted(gateway, *texts)


async def test_what_others_are_said_to_have_said_teaches_nothing(gateway: Gateway) -> None:
    """Few-shot examples and imported chats are context."""
    answer = await gateway.chat(A, assistant("Noted."), B, assistant("Yes."), C)
    told = await counted(gateway, C["content"])
    assert answer["hope"]["learnable_tokens"] == told
    # The second message of a tail is new when the first one's answer was lost.
    more = await gateway.chat(A, assistant("Noted."), B, assistant("Yes."), C, D)
    assert more["hope"]["learnable_tokens"] == await counted_more(gateway, D["content"])


async def counted_more(gateway: Gateway, text: str) -> int:
    api = gateway.api.on("counted")
    return (await api.say(text)).usage.learnable_tokens


SIDE_CALLS: dict[str, dict[str, Any]] = {
    "a title": {"headers": {"hope-task": "title_generation"}},
    "another turn type": {"headers": {"x-turn-type": "side"}},
    "learning is off": {"headers": {"hope-learn": "off"}},
    "the option": {"hope": {"learn": False}},
    "ephemeral": {"hope": {"ephemeral": True}},
    "the base model": {"model": "chat"},
    "no session": {"model": "hope"},
}


@pytest.mark.parametrize("kind", SIDE_CALLS)
async def test_side_calls_never_learn(gateway: Gateway, kind: str) -> None:
    chat = Chat(gateway)
    await chat.say(A)
    before = await gateway.api.learnt()
    fields = SIDE_CALLS[kind]
    headers = {"hope-conversation": "chat-1"} | fields.get("headers", {})
    answer = await gateway.chat(B, **fields | {"headers": headers})
    assert answer["hope"]["learnable_tokens"] == 0
    after = await gateway.api.get()
    assert after.learnable_tokens == before.learnable_tokens
    if "learn" not in kind and "option" not in kind:
        assert after.memory_hash == before.memory_hash
        # The chat's window is as it was.
        second = await chat.say(B)
        assert second["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
        assert second["hope"]["learnable_tokens"] > 0


async def test_a_task_prompt_as_a_first_turn_is_a_side_call(gateway: Gateway) -> None:
    before = await gateway.api.get()
    answer = await gateway.chat(user("### Task:\nWrite a title for this chat: my dog is Rolf."))
    assert answer["hope"]["learnable_tokens"] == 0
    assert await gateway.api.get() == before


async def test_a_variable_that_was_not_filled_in_counts_as_absent(gateway: Gateway) -> None:
    headers = {"hope-task": "{{TASK}}", "hope-conversation": "{{CHAT_ID}}"}
    answer = await gateway.chat(A, headers=headers)
    assert answer["hope"]["learnable_tokens"] > 0
    assert answer["hope"]["conversation"].startswith("auto-")


async def test_a_lost_reply_is_given_again(gateway: Gateway) -> None:
    """The SDKs repeat a request whose reply was lost, without a key of their own."""
    body = gateway.body(A, temperature=1.5)
    first = await gateway.post(body, x_stainless_retry_count="0")
    again = await gateway.post(body, x_stainless_retry_count="1")
    assert again.json()["hope"]["replayed"]
    assert again.json()["choices"] == first.json()["choices"]
    # Another try of the user is another reply, and teaches nothing either.
    fresh = (await gateway.post(body, x_stainless_retry_count="0")).json()
    assert not fresh["hope"]["replayed"]
    assert fresh["hope"]["learnable_tokens"] == 0
    assert (await gateway.api.get()).log_records == 2
    assert await learnt(gateway) == await counted(gateway, A["content"])


async def test_an_idempotency_key(gateway: Gateway) -> None:
    body = gateway.body(A)
    answers = [(await gateway.post(body, idempotency_key="k")).json() for _ in range(2)]
    assert [each["hope"]["replayed"] for each in answers] == [False, True]
    assert answers[0]["choices"] == answers[1]["choices"]
    other = await gateway.post(gateway.body(B), idempotency_key="k")
    assert other.status_code == 400
    stream = await gateway.post(body | {"stream": True}, idempotency_key="k")
    assert stream.status_code == 400
    assert (await gateway.api.get()).log_records == 1


async def test_the_ring_outlives_the_server(serve_http: ServeHttp) -> None:
    async with serve_http() as gateway:
        await gateway.api.create()
        chat = Chat(gateway)
        await chat.say(A)
        told = await learnt(gateway)
    async with serve_http() as gateway:
        answer = await gateway.chat(A, headers={"hope-conversation": "chat-1"})
        assert answer["hope"]["learnable_tokens"] == 0
        chat.gateway = gateway
        del chat.messages[1:]
        await chat.again()
        assert await learnt(gateway) == told
        more = await chat.say(B)
        assert more["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


async def test_a_history_that_is_too_long_keeps_its_end(gateway: Gateway) -> None:
    chat = Chat(gateway)
    for number in range(12):
        chat.messages += [user(f"Number {number} is a number. " * 4), assistant("Yes. " * 10)]
    answer = await chat.say(A)
    assert answer["usage"]["prompt_tokens"] <= 256
    assert answer["usage"]["prompt_tokens"] > 100
    assert (await chat.say(B))["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    texts = [message["content"] for message in (A, B)]
    assert await learnt(gateway) == await counted(gateway, *texts)
    # What is new must be read whole.
    long = await gateway.post(gateway.body(user("word " * 400)))
    assert long.status_code == 400
    assert long.json()["error"]["code"] == "context_length_exceeded"


async def test_stop_keeps_what_was_said(gateway: Gateway) -> None:
    """A client that leaves before the first text leaves no trace; after it, the turn is kept."""
    body = gateway.body(A, stream=True, max_tokens=200)
    headers = {"hope-conversation": "chat-1"}
    text = ""
    async with gateway.client.stream(
        "POST", "/v1/chat/completions", json=body, headers=headers
    ) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                delta = json.loads(line[6:])["choices"][0]["delta"]
                text += delta["content"]
                if text:
                    break
    session = await gateway.api.learnt()
    assert session.log_records >= 1
    assert session.learnable_tokens == await counted(gateway, A["content"])
    goes_on = await gateway.chat(A, assistant(text), B, headers=headers)
    assert goes_on["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert goes_on["usage"]["prompt_tokens_details"]["cached_tokens"] < 200


async def test_a_rollback_takes_back_what_was_marked_as_taught(gateway: Gateway) -> None:
    chat = Chat(gateway)
    await gateway.api.consolidate()
    await chat.say(C)
    await gateway.api.consolidate()
    version = (await gateway.api.get()).memory_version
    told = (await chat.say(A))["hope"]["learnable_tokens"]
    await gateway.api.consolidate()
    await gateway.api.rollback(version=version)
    del chat.messages[3:]
    assert (await chat.again())["hope"]["learnable_tokens"] == told


async def test_both_transports_see_one_session(gateway: Gateway) -> None:
    """A turn over gRPC in the same conversation: the window is not what the client believes."""
    chat = Chat(gateway)
    await chat.say(A)
    said = await gateway.api.say(D["content"], conversation="chat-1")
    assert said.usage.cached_input_tokens > 0
    assert not said.window_began
    anew = await chat.say(B)
    assert anew["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert anew["hope"]["learnable_tokens"] > 0
    texts = [message["content"] for message in (A, B, D)]
    assert await learnt(gateway) == await counted(gateway, *texts)


async def test_a_message_may_be_context_over_grpc_too(gateway: Gateway) -> None:
    api = gateway.api
    request = api.asking(A["content"])
    request.messages[0].learn = False
    *_, last = await api.events(request)
    assert last.result.usage.learnable_tokens == 0
    assert last.result.usage.input_tokens > 0
    assert last.result.usage.cached_input_tokens == 0
    request.messages[0].learn = True
    request.learn_options.learn = False
    *_, last = await api.events(request)
    assert last.result.usage.learnable_tokens == 0


async def test_what_was_forgotten_is_not_taught_by_sending_it_again(gateway: Gateway) -> None:
    chat = Chat(gateway)
    await chat.say(A)
    await chat.say(B)
    (dog,) = [each.id for each in await gateway.api.statements("Rolf dog")]
    await gateway.api.forget_statements(dog)
    # The UI goes on with all it has, and has the first message answered again.
    await chat.say(D)
    chat.messages = [A]
    await chat.again()
    texts = [message["content"] for message in (B, D)]
    assert [each.text for each in await gateway.api.statements()] == texts
    assert await learnt(gateway) == await counted(gateway, *texts)
    # Told in another place, it is told.
    await chat.say(C)
    await chat.say(A)
    assert len(await gateway.api.statements("Rolf dog")) == 1
