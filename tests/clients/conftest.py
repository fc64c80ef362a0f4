"""Fixtures: the scripted server, a client of it, the `hope` command against it, a real server."""

from __future__ import annotations

import asyncio
import functools
import io
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import processes
import pytest
from hope_client import HopeClient, SyncHopeClient
from hope_client.cli import main
from real_server import COMMAND, QUICK, RealServer
from scripted_server import ScriptedServer, start

Run = Callable[..., Awaitable[tuple[int, str, str]]]
Start = Callable[..., Coroutine[Any, Any, processes.AtTerminal]]
PIPES: dict[str, Any] = {
    "stdin": subprocess.PIPE,
    "stdout": subprocess.PIPE,
    "stderr": subprocess.PIPE,
}


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
def run_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command against the server that its first argument names: (exit code, stdout,
    stderr)."""

    async def run(target: str, *words: str, stdin: str | bytes = "") -> tuple[int, str, str]:
        raw = io.BytesIO(stdin.encode() if isinstance(stdin, str) else stdin)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(raw, encoding="utf-8"))
        code = await processes.in_a_thread(lambda: main([*words, "--server", target]))
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def hope(server: ScriptedServer, run_command: Run) -> Run:
    """Runs a command against the scripted server."""
    return functools.partial(run_command, server.target)


@pytest.fixture
def hope_real(real_server: RealServer, run_command: Run) -> Run:
    """Runs a command against the real server."""
    return functools.partial(run_command, real_server.target)


@pytest.fixture
async def spawn(server):
    """The command as its own process, for what needs signals or a real pipe; it ends with the test.
    `environment` comes on top of the present one; in the line `shell`, "$@" is the command."""
    started = []

    async def run(
        *words: str | bytes,
        shell: str = "",
        environment: dict[str, str] | None = None,
        **options: Any,
    ) -> asyncio.subprocess.Process:
        command = ("bash", "-c", shell, "bash", *COMMAND) if shell else COMMAND
        process = await processes.start(
            *command, *words, env=_environment(server) | (environment or {}), **(PIPES | options)
        )
        started.append(process)
        return process

    yield run
    for process in started:
        processes.kill_group(process)
        await processes.soon(process.wait())


@pytest.fixture
async def at_terminal(server: ScriptedServer) -> AsyncIterator[Start]:
    """The command at a terminal of its own; it ends with the test."""
    started = []

    async def run(*words: str) -> processes.AtTerminal:
        terminal = await processes.AtTerminal.start(*COMMAND, *words, env=_environment(server))
        started.append(terminal)
        return terminal

    yield run
    for terminal in started:
        await terminal.end()


def _environment(server: ScriptedServer) -> dict[str, str]:
    return {**os.environ, "HOPE_SERVER": server.target, "TERM": "dumb"}


@pytest.fixture
def real_server(shared_server: RealServer) -> RealServer:
    """A real server on which the user `local` has no sessions, whatever other tests left behind, so
    no two tests can mean the same one."""
    with SyncHopeClient(shared_server.target) as client:
        client.sessions.delete_user("local")
    return shared_server


@pytest.fixture(scope="session")
def shared_server(
    chat_model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealServer]:
    """The process behind `real_server`, which tests ask for instead: one for all of them."""
    server = RealServer(chat_model_dir, tmp_path_factory.mktemp("real"))
    server.start()
    yield server
    server.kill()
