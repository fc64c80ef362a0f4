"""Official clients against a live server: openai for Python, and curl."""

from __future__ import annotations

import asyncio
import json
import shutil

import openai
import pytest
from gateway import FEW_TOKENS, SESSION, Gateway, events, user

HELLO = [user("Hello, my name is Ada.")]
MODEL = f"hope/{SESSION}"


@pytest.fixture
def client(gateway: Gateway) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0)


async def test_openai_async(client: openai.AsyncOpenAI, gateway: Gateway) -> None:
    answer = await client.chat.completions.create(
        model=MODEL, messages=HELLO, max_completion_tokens=FEW_TOKENS
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer._request_id
    assert answer.model_extra
    assert answer.model_extra["hope"]["learnable_tokens"] > 0
    stream = await client.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        max_completion_tokens=FEW_TOKENS,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"hope": {"learn": False}},
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == FEW_TOKENS
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert text == answer.choices[0].message.content
    assert await client.models.retrieve(MODEL)
    assert [model.id async for model in client.models.list()] == ["chat", "hope", MODEL]


async def test_the_stream_helper(client: openai.AsyncOpenAI) -> None:
    """It adds strings up, so a role that came twice would be 'assistantassistant'."""
    asked = {"model": MODEL, "messages": HELLO, "extra_body": {"hope": {"learn": False}}}
    whole = await client.chat.completions.create(**asked, max_completion_tokens=FEW_TOKENS)
    text = whole.choices[0].message.content or ""
    # It raises for a reply that was cut, so this one ends by itself.
    async with client.chat.completions.stream(
        **asked, max_completion_tokens=2 * FEW_TOKENS, logprobs=True, stop=text[-3:]
    ) as stream:
        kinds = [event.type async for event in stream]
        done = await stream.get_final_completion()
    assert "content.delta" in kinds
    assert "content.done" in kinds
    assert done.choices[0].message.role == "assistant"
    assert text.startswith(done.choices[0].message.content or "?")
    assert done.choices[0].finish_reason == "stop"


async def test_openai_sync(gateway: Gateway) -> None:
    def ask() -> tuple[str, str]:
        with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="any") as client:
            whole = client.chat.completions.create(
                model=MODEL, messages=HELLO, max_tokens=FEW_TOKENS
            )
            text = client.completions.create(
                model=MODEL, prompt="Once upon", max_tokens=FEW_TOKENS, logprobs=2, seed=1
            )
            assert text.choices[0].logprobs
            assert text.choices[0].logprobs.token_logprobs
            return whole.choices[0].message.content or "", text.choices[0].text

    said, continued = await asyncio.to_thread(ask)
    assert said
    assert continued


async def test_errors_are_the_clients_own(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        await client.chat.completions.create(model="gpt-4", messages=HELLO)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        await client.chat.completions.create(model=MODEL, messages=HELLO, temperature=9)
    assert wrong.value.param == "temperature"
    with pytest.raises(openai.NotFoundError):
        await client.embeddings.create(model=MODEL, input="text")


async def test_completions_go_on_with_a_text(gateway: Gateway) -> None:
    body = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": FEW_TOKENS, "echo": True}
    before = await gateway.api.get()
    answer = (await gateway.post(body, "/v1/completions")).json()
    assert answer["object"] == "text_completion"
    assert answer["choices"][0]["text"].startswith("Once upon a time")
    assert await gateway.api.get() == before
    stream = await gateway.post(body | {"stream": True}, "/v1/completions")
    text = "".join(each["choices"][0]["text"] for each in events(stream.text))
    assert text == answer["choices"][0]["text"]
    taught = await gateway.post(body | {"hope": {"learn": True}}, "/v1/completions")
    assert taught.json()["hope"]["learnable_tokens"] > 0


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_curl(gateway: Gateway) -> None:
    body = gateway.body(user("Hello"), stream=True)
    process = await asyncio.create_subprocess_exec(
        "curl",
        "-sN",
        f"{gateway.url}/v1/chat/completions",
        "-H",
        "Content-Type: application/json",
        "-d",
        json.dumps(body),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    assert events(out.decode())[0]["choices"][0]["delta"]["role"] == "assistant"
