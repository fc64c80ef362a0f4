"""One session of one server, driven by everything that can: all see the same memory."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import string
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import openai
import processes
import pytest
import typescript_build
from hope_client import HopeClient, Sampling
from langchain_openai import ChatOpenAI
from node_client import NodeClient
from real_server import COMMAND, RealServer

FEW_TOKENS = 6
OPENAI_NODE = Path(__file__).with_name("openai_client.mjs")

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@pytest.fixture
async def server(chat_model_dir: Path, tmp_path: Path) -> AsyncIterator[RealServer]:
    """A server with both ports."""
    running = RealServer(chat_model_dir, tmp_path, http=True)
    await processes.in_a_thread(running.start)
    yield running
    running.kill()


async def output(*command: str | Path, **environment: str) -> str:
    process = await processes.start(
        *command,
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await processes.soon(process.communicate())
    assert process.returncode == 0, err.decode()
    return out.decode()


class Everybody:
    """Clients of the session `one`. Each says a text in a conversation of its own and returns the
    versions of the memory that answered; unless it `teaches`, it leaves nothing behind."""

    def __init__(self, server: RealServer, python: HopeClient, node: NodeClient) -> None:
        self._server = server
        self._base = f"{server.url}/v1"
        self._python = python
        self._node = node

    def _request(self, text: str, by: str, teaches: bool) -> dict[str, Any]:
        return {
            "model": "hope/one",
            "messages": [{"role": "user", "content": text}],
            "max_tokens": FEW_TOKENS,
            "hope": {"conversation": by} if teaches else {"ephemeral": True},
        }

    def _for_sdk(self, text: str, by: str, teaches: bool) -> dict[str, Any]:
        """The request as arguments of a client that knows no `hope`."""
        request = self._request(text, by, teaches)
        return request | {"extra_body": {"hope": request.pop("hope")}}

    async def openai_sync(self, text: str, teaches: bool) -> list[int]:
        def ask() -> list[int]:
            with openai.OpenAI(base_url=self._base, api_key="any") as client:
                request = self._for_sdk(text, "openai_sync", teaches)
                return [version_of(client.chat.completions.create(**request))]

        return await asyncio.to_thread(ask)

    async def openai_async(self, text: str, teaches: bool) -> list[int]:
        async with openai.AsyncOpenAI(base_url=self._base, api_key="any") as client:
            request = self._for_sdk(text, "openai_async", teaches)
            answer = await client.chat.completions.with_raw_response.create(**request)
            return [
                version_of(answer.parse()),
                int(answer.headers["Hope-Memory-Version"]),
            ]

    async def openai_stream_helper(self, text: str, teaches: bool) -> list[int]:
        async with openai.AsyncOpenAI(base_url=self._base, api_key="any") as client:
            # It raises for a reply that was cut, so this one ends at its first letter.
            stop = list(string.ascii_lowercase)
            request = self._for_sdk(text, "openai_stream_helper", teaches)
            async with client.chat.completions.stream(**request, stop=stop) as stream:
                done = await stream.get_final_completion()
            assert done.choices[0].message.role == "assistant"
            return [fingerprinted(done.system_fingerprint)]

    async def openai_node(self, text: str, teaches: bool) -> list[int]:
        # The second request is the first one again, which teaches nothing.
        request = json.dumps(self._request(text, "openai_node", teaches))
        command = ("node", OPENAI_NODE, typescript_build.PACKAGE, self._base, request)
        return [hope["memory_version"] for hope in json.loads(await output(*command))]

    async def langchain(self, text: str, teaches: bool) -> list[int]:
        request = self._request(text, "langchain", teaches)
        model = ChatOpenAI(
            model=request["model"],
            base_url=self._base,
            api_key="any",
            max_tokens=FEW_TOKENS,
            extra_body={"hope": request["hope"]},
        )
        answer = await model.ainvoke(text)
        assert answer.usage_metadata
        return [fingerprinted(answer.response_metadata["system_fingerprint"])]

    async def curl(self, text: str, teaches: bool) -> list[int]:
        request = json.dumps(self._request(text, "curl", teaches))
        header = "Content-Type: application/json"
        url = f"{self._base}/chat/completions"
        answer = json.loads(await output("curl", "-sS", url, "-H", header, "-d", request))
        return [answer["hope"]["memory_version"]]

    async def python(self, text: str, teaches: bool) -> list[int]:
        result = await self._python.say(
            "one",
            text,
            conversation="python",
            ephemeral=not teaches,
            sampling=Sampling(max_tokens=FEW_TOKENS),
        )
        return [result.usage.memory_version]

    async def typescript(self, text: str, teaches: bool) -> list[int]:
        options = {
            "conversation": "typescript",
            "ephemeral": not teaches,
            "sampling": {"maxTokens": FEW_TOKENS},
        }
        result = await self._node.call("say", "one", text, options)
        return [result["usage"]["memoryVersion"]]

    async def hope(self, text: str, teaches: bool) -> list[int]:
        options = ["--conversation", "hope"] if teaches else ["--ephemeral"]
        answer = json.loads(
            await output(
                *(*COMMAND, "generate", "one", text, "--json"),
                *(*options, "--max-tokens", str(FEW_TOKENS)),
                HOPE_SERVER=self._server.target,
            )
        )
        return [int(answer["usage"]["memory_version"])]

    def all(self) -> dict[str, Callable[[str, bool], Any]]:
        names = [name for name in vars(type(self)) if name[0] != "_" and name != "all"]
        return {name: getattr(self, name) for name in names}


def version_of(answer: Any) -> int:
    return int(answer.model_extra["hope"]["memory_version"])


def fingerprinted(fingerprint: str | None) -> int:
    """The version of the memory in the field that says what answered."""
    match = re.fullmatch(r"hope-[0-9a-f]{8}-m(\d+)", fingerprint or "")
    assert match
    return int(match[1])


async def test_all_clients_see_the_same_memory(server: RealServer, start_node: Any) -> None:
    node = await start_node(server.target)
    async with HopeClient(server.target) as python:
        await output(
            *COMMAND, "sessions", "create", "one", "--policy", "quick", HOPE_SERVER=server.target
        )
        everybody = Everybody(server, python, node)
        clients = everybody.all()
        assert len(clients) == 9
        learnt = 0
        for name, say in clients.items():
            await say(f"I am {name} and I keep bees.", True)
            session = await python.sessions.get("one")
            assert session.learnable_tokens > learnt, name
            learnt = session.learnable_tokens
        taught = (await node.call("sessions.consolidate", "one"))["session"]
        assert (taught["pendingTokens"], taught["learnableTokens"]) == (0, learnt)
        assert taught["memoryVersion"] > 0
        versions = {name: await say("Who keeps bees?", False) for name, say in clients.items()}
        expected = taught["memoryVersion"]
        assert {name: set(seen) for name, seen in versions.items()} == {
            name: {expected} for name in clients
        }
        shown = await output(
            *COMMAND, "sessions", "show", "one", "--json", HOPE_SERVER=server.target
        )
        assert json.loads(shown)["memory_hash"] == taught["memoryHash"]
        # Asking taught nobody anything.
        assert (await python.sessions.get("one")).memory_hash == taught["memoryHash"]
