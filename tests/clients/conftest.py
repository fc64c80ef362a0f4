"""Fixtures: the scripted server, a client of it, the `hope` command against it, a real server."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hope_client import HopeClient
from hope_client.cli import main
from real_server import QUICK, RealServer
from scripted_server import ScriptedServer, start

COMMAND = (sys.executable, "-c", "import sys; from hope_client.cli import main; sys.exit(main())")
PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    """A scripted server that knows the session `diary`."""
    scripted = ScriptedServer()
    scripted.add("users/local/sessions/diary", memory_version=4, learnable_tokens=1234)
    running = await start(scripted)
    yield scripted
    await running.stop(None)


@pytest.fixture
async def client(server: ScriptedServer) -> AsyncIterator[HopeClient]:
    """A client of it that does not wait long before it tries again."""
    async with HopeClient(server.target, retry=QUICK, resume=QUICK) as client:
        yield client


@pytest.fixture
def hope(server, monkeypatch, capsys):
    """Runs a command against the scripted server: (exit code, stdout, stderr)."""

    async def run(*words: str, stdin: str | bytes = "") -> tuple[int, str, str]:
        raw = io.BytesIO(stdin.encode() if isinstance(stdin, str) else stdin)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(raw, encoding="utf-8"))
        code = await asyncio.to_thread(main, [*words, "--server", server.target])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def spawn(server):
    """The command as its own process, for what needs signals, a real pipe or a terminal."""

    async def run(*words: str, **options: Any) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *COMMAND,
            *words,
            env={**os.environ, "HOPE_SERVER": server.target, "TERM": "dumb"},
            **(options or PIPES),
        )

    return run


@pytest.fixture(scope="session")
def real_server(
    chat_model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealServer]:
    """One for all tests: each has sessions of its own."""
    server = RealServer(chat_model_dir, tmp_path_factory.mktemp("real"))
    server.start()
    yield server
    server.kill()
