"""Child processes of tests: each leads a process group of its own, and none outlives its test.

A test waits for what it wants to see, never for a time. `PATIENCE_SECONDS` only bounds a wait for
what will not come any more, so it is long enough for a machine whose cores are all busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE_SECONDS = 120.0

# Process ids of servers that several tests share.
SHARED: set[int] = set()


async def soon(what: Awaitable[T]) -> T:
    """What `what` gives; TimeoutError when nothing will."""
    return await asyncio.wait_for(what, PATIENCE_SECONDS)


async def in_a_thread(work: Callable[[], T]) -> T:
    """What `work` returns, from a thread that nobody waits for at the end: those of asyncio's
    executor hold up the end of the event loop for as long as they are blocked."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(outcome: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(lambda: None if future.done() else outcome())

    def run() -> None:
        try:
            result = work()
        except BaseException as error:
            failure = error
            settle(lambda: future.set_exception(failure))
        else:
            settle(lambda: future.set_result(result))

    threading.Thread(target=run, daemon=True).start()
    return await future


async def start(*command: str | bytes | Path, **options: Any) -> asyncio.subprocess.Process:
    """Starts a program as the leader of a process group of its own."""
    return await asyncio.create_subprocess_exec(*command, start_new_session=True, **options)


def kill_group(process: asyncio.subprocess.Process | subprocess.Popen[Any]) -> None:
    """Ends a process that `start` started, and whatever it started itself."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def children() -> set[int]:
    """Process ids of this process's living children; empty where the system does not tell."""
    found: set[int] = set()
    for thread in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found.update(map(int, thread.read_text().split()))
    return {child for child in found if lives(child)}


def end_children(known: set[int]) -> list[str]:
    """Kills the children that are neither in `known` nor shared; their command lines."""
    ended = []
    for child in children() - known - SHARED:
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            if "resource_tracker" in command:  # of multiprocessing: one for the whole run
                continue
            group = os.getpgid(child)
            if group == child:
                os.killpg(group, signal.SIGKILL)
            else:
                os.kill(child, signal.SIGKILL)
            ended.append(f"{child}: {command.strip()}")
    return ended


def lives(process: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


class AtTerminal:
    """A program that believes it is at a terminal, and what it has shown there.

    `await AtTerminal.start(command, env)`; the program is logged in, so that ^C becomes its SIGINT.
    """

    # Makes the terminal the program's own in a process that has no threads yet. A function to be
    # run between fork and exec would run beside locks that threads of gRPC held at the fork.
    _LOGIN = (
        "import os, sys\nos.login_tty(int(sys.argv[1]))\nos.execvp(sys.argv[2], sys.argv[2:])\n"
    )

    def __init__(self, terminal: int, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._terminal = terminal
        self._shown = b""

    @classmethod
    async def start(cls, *command: str, env: dict[str, str]) -> AtTerminal:
        """Starts `command` at a new terminal."""
        ours, theirs = os.openpty()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", cls._LOGIN, str(theirs), *command),
                env=env,
                pass_fds=(theirs,),
            )
        finally:
            os.close(theirs)
        os.set_blocking(ours, False)
        return cls(ours, process)

    def type(self, text: bytes) -> None:
        """Presses keys."""
        os.write(self._terminal, text)

    async def until(self, text: bytes) -> None:
        """Waits until `text` is shown behind what was waited for before."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while text not in self._shown:
                self._shown += await self._read()
        self._shown = self._shown.split(text, 1)[1]

    async def end(self) -> None:
        """Ends the program and whatever it started."""
        kill_group(self.process)
        await soon(self.process.wait())
        os.close(self._terminal)

    async def _read(self) -> bytes:
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._terminal, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._terminal)
        try:
            return os.read(self._terminal, 4096)
        except OSError as error:  # Linux's way to say that the program has left its terminal
            raise AssertionError(f"the program ended after {self._shown!r}") from error
