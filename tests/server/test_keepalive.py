"""Pings of clients and proxies on a connection whose call waits: taken, and answered."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass, field

import pytest
from grpc import aio
from hope.v1 import sessions_pb2, sessions_pb2_grpc
from serving import Serve, Served

from server.grpc_api.server import MIN_PING_INTERVAL_MS
from server.store.base import SessionKey

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
KEY = SessionKey("ada", "diary")
SETTINGS, PING, GOAWAY = 4, 6, 7
ACK = 1


def frame(kind: int, flags: int = 0, payload: bytes = b"") -> bytes:
    """A frame of HTTP/2 on the connection as a whole (RFC 9113, section 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + bytes(4) + payload


@dataclass
class Http2:
    """A connection that carries nothing but pings; gRPC's own clients ping less often."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    pongs: int = 0
    gone: bytes | None = None
    _reading: asyncio.Task[None] | None = field(default=None)

    @classmethod
    async def connect(cls, port: int) -> Http2:
        made = cls(*await asyncio.open_connection("127.0.0.1", port))
        made.writer.write(PREFACE + frame(SETTINGS))
        made._reading = asyncio.create_task(made._read())
        return made

    async def _read(self) -> None:
        while True:
            try:
                head = await self.reader.readexactly(9)
                payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
            except (asyncio.IncompleteReadError, ConnectionError):
                self.gone = self.gone or b"closed"
                return
            kind, flags = head[3], head[4]
            if kind == SETTINGS and not flags & ACK:
                self.writer.write(frame(SETTINGS, ACK))
            elif kind == PING and not flags & ACK:
                self.writer.write(frame(PING, ACK, payload))
            elif kind == PING:
                self.pongs += 1
            elif kind == GOAWAY:
                self.gone = payload[8:]

    async def ping(self, times: int, seconds: float) -> int:
        """Pings so often; returns how many were answered before the connection ended."""
        for number in range(times):
            await asyncio.sleep(seconds)
            if self.gone is not None:
                break
            self.writer.write(frame(PING, 0, struct.pack(">Q", number)))
            await asyncio.sleep(0.02)
        return self.pongs

    async def close(self) -> None:
        assert self._reading
        self._reading.cancel()
        self.writer.close()


@pytest.mark.parametrize("seconds", [MIN_PING_INTERVAL_MS / 1000 + 0.1, 1.0])
async def test_a_connection_that_pings_often_stays(served: Served, seconds: float) -> None:
    connection = await Http2.connect(served.running.port)
    try:
        assert await connection.ping(6, seconds) == 6
        assert connection.gone is None
    finally:
        await connection.close()


async def test_a_flood_of_pings_ends_the_connection(served: Served) -> None:
    connection = await Http2.connect(served.running.port)
    try:
        assert await connection.ping(50, 0.02) < 50
        assert connection.gone is not None
        assert b"too_many_pings" in connection.gone
    finally:
        await connection.close()


@pytest.mark.heavy
@pytest.mark.parametrize("without_calls", [0, 1])
async def test_a_call_outlasts_pings_every_ten_seconds(serve: Serve, without_calls: int) -> None:
    """A minute of waiting behind a client like most: grpc-go pings every ten seconds at the
    soonest."""
    options = [
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", without_calls),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    async with serve() as served:
        await served.api.create()
        target = f"127.0.0.1:{served.running.port}"
        async with aio.insecure_channel(target, options=options) as channel:
            stub = sessions_pb2_grpc.SessionServiceStub(channel)
            async with served.running.sessions.residency.locked(KEY):
                request = sessions_pb2.ConsolidateRequest(name=served.api.name)
                waiting = asyncio.ensure_future(stub.Consolidate(request))
                await asyncio.sleep(65)
                assert not waiting.done()
            assert (await waiting).session.name == served.api.name
