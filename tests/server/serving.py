"""What tests hold of a running server, in this process or in one of its own."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import processes
from api import Api
from grpc import aio

from server.running import RunningServer

WINDOW = 256
# Loopback calls that fail at once should be tried again at once.
CHANNEL = (("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200))


@dataclass
class Served:
    """A server in this process and a connection to it."""

    running: RunningServer
    api: Api


Serve = Callable[..., AbstractAsyncContextManager[Served]]


def connect(port: int) -> aio.Channel:
    return aio.insecure_channel(f"127.0.0.1:{port}", options=CHANNEL)


@dataclass
class ServerProcess:
    """A server in a process of its own, so that it can be killed."""

    process: asyncio.subprocess.Process
    port: int
    api: Api

    async def kill(self) -> None:
        """Ends it as a power cut would."""
        if self.process.returncode is None:
            processes.kill_group(self.process)
        await processes.soon(self.process.wait())


Spawn = Callable[..., AbstractAsyncContextManager[ServerProcess]]
QUICK_SERVER = Path(__file__).with_name("quick_server.py")


def command(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, str(QUICK_SERVER), *arguments)
