"""The HTTP server within this process: uvicorn on the event loop of everything else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp


class _Embedded(uvicorn.Server):
    """A server that leaves signals to the process that it is part of."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass(frozen=True, slots=True)
class HttpPort:
    """A port that serves an application until `stop`."""

    port: int
    scheme: str
    _server: uvicorn.Server
    _serving: asyncio.Task[None]

    @classmethod
    async def open(
        cls,
        app: ASGIApp,
        host: str,
        port: int,
        *,
        certificate: tuple[Path, Path] | None = None,
    ) -> HttpPort:
        """Listen; port 0 picks a free one. Speaks TLS with a `certificate` (its file, and its
        key's). Raises OSError when the port is taken."""
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,
            ssl_certfile=certificate and str(certificate[0]),
            ssl_keyfile=certificate and str(certificate[1]),
        )
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listener = socket.create_server((host, port), family=family, backlog=128)
        except OSError as error:
            raise OSError(f"cannot listen on {host}:{port}: {error}") from error
        try:
            config.load()
        except ssl.SSLError as error:
            listener.close()
            raise OSError(f"the certificate cannot be used for HTTP: {error}") from error
        server = _Embedded(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            if serving.done():
                await serving
            await asyncio.sleep(0.005)
        scheme = "https" if certificate else "http"
        return cls(listener.getsockname()[1], scheme, server, serving)

    async def stop(self, grace_seconds: float) -> None:
        """Take no more connections; running requests have `grace_seconds`."""
        self._server.config.timeout_graceful_shutdown = max(1, round(grace_seconds))
        self._server.should_exit = True
        await self._serving
