"""Fixtures: a real server over the small chat model, in this process or in one of its own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import processes
import pytest
from api import Api
from quick_server import QUICK
from serving import WINDOW, Serve, Served, ServerProcess, Spawn, command, connect

from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.policy import POLICIES
from server.running import running_server
from server.settings import Settings
from server.telemetry.tracing import OtelTracer


@pytest.fixture(autouse=True)
def _clean_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of whoever runs the tests is not theirs."""
    for name in list(os.environ):
        if name.startswith("HOPE_") and name != "HOPE_CACHE_DIR":
            monkeypatch.delenv(name)
    monkeypatch.setitem(POLICIES, QUICK.name, QUICK)


@pytest.fixture
def serve(chat_model: BaseModel, tmp_path: Path) -> Serve:
    """Starts a server on the test's own database; keyword arguments are settings."""

    @asynccontextmanager
    async def start(
        model: BaseModel = chat_model, tracer: OtelTracer | None = None, **options: Any
    ) -> AsyncIterator[Served]:
        place = {} if "store" in options else {"database": tmp_path / "sessions.db"}
        settings = Settings(
            **place | {"port": 0, "window_tokens": WINDOW, "threads": 1, "model": "chat"} | options
        )
        async with (
            running_server(settings, model, tracer=tracer) as running,
            connect(running.port) as channel,
        ):
            yield Served(running, Api(channel))

    return start


@pytest.fixture
async def served(serve: Serve) -> AsyncIterator[Served]:
    async with serve() as running:
        yield running


@pytest.fixture
async def api(served: Served) -> Api:
    """A connection to a server on which the session exists."""
    await served.api.create()
    return served.api


@pytest.fixture
def spawn(chat_model_dir: Path, tmp_path: Path) -> Spawn:
    """Starts a server process on the test's own database; it is killed at the end of the block."""

    @asynccontextmanager
    async def start(**options: Any) -> AsyncIterator[ServerProcess]:
        place = {} if "store" in options else {"database": tmp_path / "sessions.db"}
        settings = {
            **place,
            "host": "127.0.0.1",
            "port": 0,
            "model": chat_model_dir,
            "dtype": "float32",
            "window_tokens": WINDOW,
            "threads": 1,
            "lease_seconds": 0.5,
        } | options
        arguments = [
            part
            for name, value in settings.items()
            for part in (f"--{name.replace('_', '-')}", str(value))
        ]
        with (tmp_path / "server.log").open("ab") as log:
            process = await processes.start(
                *command(*arguments), stdout=asyncio.subprocess.PIPE, stderr=log
            )
        assert process.stdout
        try:
            line = (await processes.soon(process.stdout.readline())).decode()
            assert "listens on" in line, (tmp_path / "server.log").read_text()
        except BaseException:
            processes.kill_group(process)
            raise
        port = int(line.rpartition(":")[2])
        channel = connect(port)
        server = ServerProcess(process, port, Api(channel))
        try:
            yield server
        finally:
            await server.kill()
            await channel.close()

    return start
