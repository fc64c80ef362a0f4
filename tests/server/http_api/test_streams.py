"""Several streams at once, and connections that close behind their answer."""

from __future__ import annotations

import asyncio
import json

from api import Api
from gateway import NAME, Gateway, user

STREAMS = 8


async def test_eight_streams_on_connections_of_their_own(gateway: Gateway) -> None:
    port = int(gateway.url.rpartition(":")[2])
    for number in range(STREAMS):
        await Api(gateway.api.channel, NAME.replace("diary", f"s{number}")).create()

    async def ask(number: int) -> str:
        body = gateway.body(
            user("Hello"), model=f"hope/s{number}", stream=True, hope={"ephemeral": True}
        )
        data = json.dumps(body).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            "Connection: close\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\n\r\n"
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head.encode() + data)
        answer = (await reader.read()).decode()
        writer.close()
        return answer

    async with asyncio.timeout(60):
        answers = await asyncio.gather(*map(ask, range(STREAMS)))
    assert all(answer.startswith("HTTP/1.1 200 ") for answer in answers)
    assert all("data: [DONE]" in answer for answer in answers)
