"""What tests of the clients hold of a real server, and how soon a client of theirs tries again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import processes
from hope_client import RetryPolicy

# The command `hope`.
COMMAND = (sys.executable, "-c", "import sys; from hope_client.cli import main; sys.exit(main())")
QUICK_SERVER = Path(__file__).resolve().parents[1] / "server" / "quick_server.py"
QUICK = RetryPolicy(attempts=4, initial_seconds=0.01, maximum_seconds=0.05)


class RealServer:
    """`hope serve` in a process of its own, with the policy `quick` and a small model."""

    def __init__(self, model: Path, directory: Path, *, http: bool = False) -> None:
        self._arguments = (
            *("--model", str(model), "--database", str(directory / "sessions.db")),
            *("--dtype", "float32", "--window-tokens", "256", "--threads", "1"),
            *("--lease-seconds", "0.5"),
            *(("--http-port", "0") if http else ()),
        )
        self._http = http
        self.url = ""  # of the HTTP port, if there is one
        self._log = directory / "server.log"
        self.port = 0

    def start(self) -> None:
        """Starts it, the second time on the port that it had."""
        environment = {key: value for key, value in os.environ.items() if key[:5] != "HOPE_"}
        if "HOPE_CACHE_DIR" in os.environ:
            environment["HOPE_CACHE_DIR"] = os.environ["HOPE_CACHE_DIR"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, QUICK_SERVER, "--port", str(self.port), *self._arguments],
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        assert self._process.stdout
        line = self._process.stdout.readline().decode()
        if "listens on" not in line:
            self.kill()
            raise AssertionError(self._log.read_text())
        self.port = int(line.rpartition(":")[2])
        if self._http:
            self.url = self._process.stdout.readline().decode().split()[-1].removesuffix("/v1")

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def kill(self) -> None:
        """Ends it as a power cut would."""
        processes.kill_group(self._process)
        self._process.wait(processes.PATIENCE_SECONDS)
        assert self._process.stdout
        self._process.stdout.close()
