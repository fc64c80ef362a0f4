"""Fixtures: a server with its HTTP port, and clients of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2 as httpx
import pytest
from gateway import Gateway, ServeHttp
from serving import Serve


@pytest.fixture
def serve_http(serve: Serve) -> ServeHttp:
    """Starts a server with an HTTP port; keyword arguments are settings."""

    @asynccontextmanager
    async def start(**options: Any) -> AsyncIterator[Gateway]:
        async with serve(**{"http_port": 0} | options) as served:
            assert served.running.http is not None
            url = f"{served.running.http.scheme}://127.0.0.1:{served.running.http.port}"
            async with httpx.AsyncClient(base_url=url, timeout=60) as client:
                yield Gateway(served, url, client)

    return start


@pytest.fixture
async def gateway(serve_http: ServeHttp) -> AsyncIterator[Gateway]:
    """A server on which the session "diary" of the local user exists."""
    async with serve_http() as running:
        await running.api.create()
        yield running
