"""Benchmark of the HTTP gateway: eight streams over HTTP against the same eight over gRPC."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from hope.v1 import inference_pb2 as pb
from hope_client import HopeClient

from benchmarks.common import Entry, compared
from benchmarks.local_server import local_server
from hope_runtime.models.decoder.weights import BaseModel

STREAMS = 8
REPLY_TOKENS = 32
_COMPLETION_TOKENS = re.compile(rb'"completion_tokens":(\d+)')


def overhead(model: BaseModel) -> Entry:
    """Tokens per second of 8 streams over HTTP against the same turns over gRPC.

    The server is a process of its own and runs the default model; nothing is kept of the turns.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (
        tempfile.TemporaryDirectory() as directory,
        local_server(Path(directory) / "sessions.db", "--http-port", str(port)) as address,
    ):

        async def prepare() -> None:
            async with HopeClient(address, user="local") as client:
                for number in range(STREAMS):
                    await client.sessions.create(f"s{number}")

        asyncio.run(prepare())

        async def over_grpc() -> int:
            async with HopeClient(address, user="local") as client:

                async def one(number: int) -> int:
                    turn = await client.say(
                        f"s{number}",
                        _prompt(number),
                        ephemeral=True,
                        sampling=pb.Sampling(max_tokens=REPLY_TOKENS, temperature=1, seed=number),
                    )
                    return turn.usage.output_tokens

                return sum(await asyncio.gather(*map(one, range(STREAMS))))

        async def over_http() -> int:
            return sum(await asyncio.gather(*(_ask(port, number) for number in range(STREAMS))))

        return compared("gateway.overhead", "tokens/s", _rate(over_http), _rate(over_grpc))


def _rate(turns: Callable[[], Awaitable[int]]) -> Callable[[], float]:
    async def measured() -> float:
        started = time.perf_counter()
        return await turns() / (time.perf_counter() - started)

    return lambda: asyncio.run(measured())


def _prompt(number: int) -> str:
    return f"Tell me a long story about {number + 2} ships."


async def _ask(port: int, number: int) -> int:
    """One stream, read as bare bytes: what is measured is the server."""
    body = json.dumps(
        {
            "model": f"hope/s{number}",
            "messages": [{"role": "user", "content": _prompt(number)}],
            "max_tokens": REPLY_TOKENS,
            "temperature": 1,
            "seed": number,
            "stream": True,
            "stream_options": {"include_usage": True},
            "hope": {"ephemeral": True},
        }
    ).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode() + body)
    answer = await reader.read()
    writer.close()
    found = _COMPLETION_TOKENS.search(answer)
    if found is None:
        raise RuntimeError(f"the server did not answer: {answer[:500]!r}")
    return int(found[1])
