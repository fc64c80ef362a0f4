"""A running HTTP port, and shorthand for asking it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import httpx2 as httpx
from api import Api
from serving import Served

SESSION = "diary"
NAME = f"users/local/sessions/{SESSION}"
FEW_TOKENS = 6


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def events(text: str) -> list[Any]:
    """The JSON of each event of a stream, which must end with [DONE]."""
    *found, done, rest = text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(each.removeprefix("data: ")) for each in found if each[0] != ":"]


@dataclass
class Gateway:
    """A server with an HTTP port, and a client of that port."""

    served: Served
    url: str
    client: httpx.AsyncClient

    @property
    def api(self) -> Api:
        """gRPC's view of the local user's session."""
        return Api(self.served.api.channel, NAME)

    def body(self, *messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
        """A request for a short reply of the session; keyword arguments are fields of it."""
        return {
            "model": f"hope/{SESSION}",
            "messages": list(messages),
            "max_tokens": FEW_TOKENS,
        } | fields

    async def post(
        self, body: Any, path: str = "/v1/chat/completions", **headers: str
    ) -> httpx.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(path, json=body, headers=names)

    async def chat(self, *messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
        """The answer to a request, which must succeed."""
        headers = fields.pop("headers", {})
        response = await self.client.post(
            "/v1/chat/completions", json=self.body(*messages, **fields), headers=headers
        )
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found


ServeHttp = Callable[..., AbstractAsyncContextManager[Gateway]]
