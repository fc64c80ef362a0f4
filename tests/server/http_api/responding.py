"""Asking for responses, and what tests say."""

from __future__ import annotations

from typing import Any

from gateway import FEW_TOKENS, SESSION, Gateway

MODEL = f"hope/{SESSION}"
PATH = "/v1/responses"
DOG = "My dog is called Rolf."
CHEESE = "Rolf likes cheese and rain."
CAT = "Where does the cat of my aunt live?"


def asking(text: str | list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "input": text, "max_output_tokens": FEW_TOKENS} | fields


async def answered(gateway: Gateway, text: Any, **fields: Any) -> dict[str, Any]:
    """The response to a request, which must succeed."""
    headers = fields.pop("headers", {})
    response = await gateway.client.post(PATH, json=asking(text, **fields), headers=headers)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def told(gateway: Gateway, *texts: str) -> int:
    """Tokens that texts teach, each told once."""
    api = gateway.api.on("counted")
    await api.create()
    return sum([(await api.say(text)).usage.learnable_tokens for text in texts])


async def learnt(gateway: Gateway) -> int:
    return (await gateway.api.get()).learnable_tokens


def cached(response: dict[str, Any]) -> int:
    return int(response["usage"]["input_tokens_details"]["cached_tokens"])
