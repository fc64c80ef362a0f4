"""A real server as a child process, for the demonstration and the benchmarks."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_LISTENS = re.compile(r"listens on (\S+)")


@contextlib.contextmanager
def local_server(database: Path, *arguments: str) -> Iterator[str]:
    """Runs `hope serve` on a free port; yields its address and stops it gracefully at the end.

    Raises RuntimeError when the server does not come up; its own messages go to stderr.
    """
    with server_process(database, *arguments) as (target, _):
        yield target


@contextlib.contextmanager
def server_process(database: Path, *arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The same with the process, which may be killed."""
    command = [sys.executable, "-m", "server.main", "--port", "0", "--database", str(database)]
    child = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        for line in child.stdout:
            if match := _LISTENS.search(line):
                yield match[1], child
                break
        else:
            raise RuntimeError(f"the server exited with status {child.wait()} before it was ready")
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(timeout=60)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
