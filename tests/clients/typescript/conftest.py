"""Fixtures: the TypeScript client against the scripted server, or any other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import typescript_build
from node_client import QUICK, NodeClient
from scripted_server import ScriptedServer

StartNode = Callable[..., Awaitable[NodeClient]]


@pytest.fixture(scope="session")
def module() -> Path:
    """The compiled client."""
    return typescript_build.compiled()


@pytest.fixture
async def start_node(module: Path) -> AsyncIterator[StartNode]:
    """Starts a client; keyword arguments are its options. It ends with the test."""
    started: list[NodeClient] = []

    async def start(target: str, **options: Any) -> NodeClient:
        client = await NodeClient.start(
            module, target, **{"retry": QUICK, "resume": QUICK | {"patienceSeconds": 0}} | options
        )
        started.append(client)
        return client

    yield start
    for client in started:
        await client.kill()


@pytest.fixture
async def client(start_node: StartNode, server: ScriptedServer) -> NodeClient:
    """A client of the scripted server that does not wait long before it tries again."""
    return await start_node(server.target)
