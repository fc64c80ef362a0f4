"""A TCP proxy on loopback that breaks connections where a test says. It knows bytes and no gRPC."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class FaultProxy:
    """Stands before the server on `port`."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.target = ""
        # After so many more bytes of the server's every connection breaks; one entry a break.
        self.cuts: deque[int] = deque()
        # While it is set, what the server says is thrown away.
        self.deaf = False
        self.passed = 0  # bytes of the server's, over all connections
        self._open: set[asyncio.StreamWriter] = set()
        self._handlers: set[asyncio.Task[None]] = set()

    def cut(self) -> None:
        """Breaks every connection now, without a goodbye."""
        for writer in self._open:
            writer.transport.abort()
        self._open.clear()

    async def close(self) -> None:
        self.cut()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    async def handle(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._handlers.add(task)
        server, to_server = await asyncio.open_connection("127.0.0.1", self._port)
        self._open |= {to_client, to_server}
        asking = asyncio.create_task(self._ask(client, to_server))
        with contextlib.suppress(OSError):
            await self._answer(server, to_client)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        for writer in (to_client, to_server):
            writer.transport.abort()
            self._open.discard(writer)

    async def _ask(self, client: asyncio.StreamReader, to_server: asyncio.StreamWriter) -> None:
        while data := await client.read(4096):
            to_server.write(data)
            await to_server.drain()
        to_server.transport.abort()

    async def _answer(self, server: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        while data := await server.read(4096):
            if self.deaf:
                continue
            cutting = bool(self.cuts) and len(data) >= self.cuts[0]
            if cutting:
                data = data[: self.cuts.popleft()]
            elif self.cuts:
                self.cuts[0] -= len(data)
            to_client.write(data)
            await to_client.drain()
            self.passed += len(data)
            if cutting:
                await asyncio.sleep(0)  # what was written must leave before the break
                self.cut()
                return


@asynccontextmanager
async def fault_proxy(port: int) -> AsyncIterator[FaultProxy]:
    """A proxy before `port` for the time of the block."""
    proxy = FaultProxy(port)
    server = await asyncio.start_server(proxy.handle, "127.0.0.1", 0)
    proxy.target = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
