"""Chat completions over HTTP: bytes on the wire, and what is said of the answer."""

from __future__ import annotations

import re

from gateway import Gateway, events, user

GOLDEN_PLAIN = """\
data: {"id":"ID","object":"chat.completion.chunk","created":0,"model":"hope/diary",\
"system_fingerprint":"hope-BASE-m0","choices":[{"index":0,\
"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}

data: {"id":"ID","object":"chat.completion.chunk","created":0,"model":"hope/diary",\
"system_fingerprint":"hope-BASE-m0","choices":[{"index":0,"delta":{"content":"TEXT"},\
"logprobs":null,"finish_reason":null}]}

data: {"id":"ID","object":"chat.completion.chunk","created":0,"model":"hope/diary",\
"system_fingerprint":"hope-BASE-m0","choices":[{"index":0,"delta":{},"logprobs":null,\
"finish_reason":"length"}],"hope":{"session":"users/local/sessions/diary",\
"conversation":"auto-185f8db32271fe25","memory_version":0,"learnable_tokens":1,\
"surprise_nats":NATS,"replayed":false,"learning":false}}

data: [DONE]

"""
USAGE = """\
data: {"id":"ID","object":"chat.completion.chunk","created":0,"model":"hope/diary",\
"system_fingerprint":"hope-BASE-m0","choices":[],"usage":{"prompt_tokens":PROMPT,\
"completion_tokens":6,"total_tokens":TOTAL,"prompt_tokens_details":{"cached_tokens":0}}}

"""


def masked(text: str, base: str) -> str:
    """The stream without what differs from run to run, and with one chunk for all text."""
    text = re.sub(r"chatcmpl-[0-9a-f]{24}", "ID", text)
    text = re.sub(r'"created":\d+', '"created":0', text)
    text = re.sub(r'"surprise_nats":[0-9.]+', '"surprise_nats":NATS', text)
    text = re.sub(r'"prompt_tokens":\d+', '"prompt_tokens":PROMPT', text)
    text = re.sub(r'"total_tokens":\d+', '"total_tokens":TOTAL', text)
    text = re.sub(r'"delta":\{"content":"(?:[^"\\]|\\.)*"\}', '"delta":{"content":"TEXT"}', text)
    blocks = text.replace(base, "BASE").split("\n\n")
    kept = [each for at, each in enumerate(blocks) if not at or each != blocks[at - 1]]
    return "\n\n".join(kept)


async def test_the_bytes_of_a_stream(gateway: Gateway) -> None:
    base = gateway.served.running.sessions.fingerprint[:8]
    response = await gateway.post(gateway.body(user("Hello"), stream=True))
    assert response.status_code == 200
    head = response.headers
    assert head["content-type"] == "text/event-stream"
    assert head["cache-control"] == "no-cache"
    assert head["x-accel-buffering"] == "no"
    assert head["hope-session"] == "diary"
    assert head["hope-conversation"] == "auto-185f8db32271fe25"
    assert head["hope-memory-version"] == "0"
    assert re.fullmatch("[0-9a-f]{8}", head["x-request-id"])
    assert masked(response.text, base) == GOLDEN_PLAIN
    chunks = events(response.text)
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


async def test_usage_comes_in_a_chunk_of_its_own(gateway: Gateway) -> None:
    base = gateway.served.running.sessions.fingerprint[:8]
    options = {"include_usage": True}
    body = gateway.body(user("Hello"), stream=True, stream_options=options)
    text = masked((await gateway.post(body)).text, base)
    *before, usage, done, rest = text.split("\n\n")
    assert all('"usage":null' in each for each in before)
    assert f"{usage}\n\n" == USAGE
    assert (done, rest) == ("data: [DONE]", "")
    without = "\n\n".join(each.replace(',"usage":null', "") for each in before)
    assert f"{without}\n\ndata: [DONE]\n\n" == GOLDEN_PLAIN


async def test_an_answer_at_once(gateway: Gateway) -> None:
    answer = await gateway.chat(user("Hello"), logprobs=True, top_logprobs=2)
    (choice,) = answer["choices"]
    assert answer["object"] == "chat.completion"
    assert choice["finish_reason"] == "length"
    assert choice["message"]["role"] == "assistant"
    content = choice["logprobs"]["content"]
    assert len(content) == answer["usage"]["completion_tokens"] == 6
    assert (
        b"".join(bytes(each["bytes"]) for each in content).decode(errors="replace")
        == (choice["message"]["content"])
    )
    assert all(len(each["top_logprobs"]) == 2 for each in content)
    assert answer["hope"]["learnable_tokens"] == 1
    assert answer["hope"]["surprise_nats"] > 0


async def test_the_base_model_keeps_nothing(gateway: Gateway) -> None:
    before = await gateway.api.get()
    for model in ("chat", "hope"):
        answer = await gateway.chat(user("Hello"), model=model)
        assert answer["hope"]["session"] is None
        assert answer["hope"]["learnable_tokens"] == 0
        assert answer["choices"][0]["message"]["content"]
    assert await gateway.api.get() == before
