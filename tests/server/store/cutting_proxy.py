"""A connection that is cut at a chosen moment: between a store and its server, for tests."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Literal

Cut = Literal["before", "after"]


class CuttingProxy:
    """Passes connections on to `target`. Pieces that clients send are counted from 0; `cut` says at
    which one the connection ends: before it is passed on, or after the server has answered it, so
    that only the answer is lost."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.sent = 0
        self._cut: tuple[int, Cut] | None = None
        self._server: asyncio.Server | None = None
        self.port = 0

    async def __aenter__(self) -> CuttingProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server
        self._server.close()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def cut(self, at: int, how: Cut) -> None:
        """Ends the connection once, at the piece that comes after `at` others from now."""
        self.sent, self._cut = 0, (at, how)

    @property
    def has_cut(self) -> bool:
        return self._cut is None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            upstream, downstream = await asyncio.open_connection("127.0.0.1", self.target)
            back = asyncio.create_task(self._pass(upstream, writer))
            try:
                while data := await reader.read(1 << 16):
                    number, self.sent = self.sent, self.sent + 1
                    if self._cut is not None and number == self._cut[0]:
                        _, how = self._cut
                        self._cut = None
                        back.cancel()
                        await asyncio.wait([back])
                        if how == "after":
                            downstream.write(data)
                            await upstream.read(1 << 16)
                        break
                    downstream.write(data)
            finally:
                back.cancel()
                downstream.close()
                writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
            writer.close()
