"""Keeps the process of vLLM: starts it, watches it, and starts another one when it is lost.

A process is lost when it ends, or when it owes something and has given no sign of life for too
long; then it is killed. Knows messages and no turns.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

from hope_runtime.engine.vllm.messages import FromProcess, Options, Ready, Refused, ToProcess
from hope_runtime.errors import EngineLostError, ModelError

_log = logging.getLogger(__name__)

MODULE = "hope_runtime.engine.vllm.worker.main"
# A step reads a few hundred tokens: a second on one slow core.
STALL_SECONDS = 60.0
START_SECONDS = 300.0
# Between attempts to start it again.
RETRY_SECONDS = (0.0, 1.0, 5.0, 15.0)
POLL_SECONDS = 0.5

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the process is ours already
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_PLUGINS": "",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    # What is left of its chatter on the server's standard error.
    "TQDM_DISABLE": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "PYTHONWARNINGS": "ignore::FutureWarning",
}


class Supervisor:
    """One process at a time, until it is closed.

    `on_message` and `on_lost` are called on the supervisor's thread: what came, and that nothing
    more will come of what was sent. `owes` says whether an answer is expected.
    """

    def __init__(
        self,
        options: Options,
        *,
        threads: int,
        on_message: Callable[[FromProcess], None],
        on_lost: Callable[[], None],
        owes: Callable[[], bool],
    ) -> None:
        self._options = options
        self._threads = threads
        self._on_message = on_message
        self._on_lost = on_lost
        self._owes = owes
        # Held while something is sent, so that nobody closes the socket meanwhile.
        self._sending = threading.Lock()
        self._closing = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        # Set while it serves.
        self._connection: Connection | None = None
        self._thread = threading.Thread(target=self._keep, name="hope-vllm", daemon=True)

    def start(self) -> None:
        """Return when it serves. Raises ModelError with the reason when it does not."""
        try:
            connection = self._open()
        except EngineLostError as error:
            raise ModelError(str(error)) from error
        self._serve(connection)
        self._thread.start()

    def send(self, message: ToProcess) -> None:
        """Raise EngineLostError while there is no process that serves. One thread."""
        with self._sending:
            if self._connection is None:
                raise EngineLostError("the vLLM process is restarting; retry in a few seconds")
            try:
                self._connection.send(message)
            except OSError as error:
                raise EngineLostError(
                    "the vLLM process was lost; retry in a few seconds"
                ) from error

    @property
    def pid(self) -> int | None:
        """Process id of the process that serves now."""
        process = self._process
        return process.pid if process is not None and self._connection is not None else None

    def close(self) -> None:
        """End the process and the threads that watch it."""
        self._closing.set()
        self._end()
        if self._thread.ident is not None:
            self._thread.join()

    def _serve(self, connection: Connection) -> None:
        self._connection = connection
        if self._closing.is_set():
            self._end()

    def _open(self) -> Connection:
        """A process that is ready. Raises EngineLostError with the reason."""
        ours, theirs = socket.socketpair()
        with theirs:
            # The server's own settings are not the process's business: some are secrets.
            inherited = {k: v for k, v in os.environ.items() if not k.startswith("HOPE_")}
            environment = {**inherited, **ENVIRONMENT, "OMP_NUM_THREADS": str(self._threads)}
            self._process = subprocess.Popen(
                [sys.executable, "-m", MODULE, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,  # the server's own output is for what it says itself
                env=environment,
            )
        connection = Connection(ours.detach())
        try:
            connection.send(self._options)
            if not connection.poll(START_SECONDS):
                raise EngineLostError(f"vLLM was not ready after {START_SECONDS:.0f} seconds")
            answer = connection.recv()
        except (EOFError, OSError) as error:
            self._kill(connection)
            raise EngineLostError("the vLLM process ended before it was ready") from error
        except EngineLostError:
            self._kill(connection)
            raise
        if isinstance(answer, Refused):
            self._kill(connection)
            raise EngineLostError(f"vLLM refused to serve: {answer.reason}")
        assert isinstance(answer, Ready)
        _log.info("vLLM is ready after %.0f s", answer.seconds)
        return connection

    def _keep(self) -> None:
        """Passes on what the process says, and replaces it when it is lost."""
        while not self._closing.is_set():
            assert self._connection is not None
            self._listen(self._connection)
            if self._closing.is_set():
                break
            _log.error("the vLLM process was lost; starting another one")
            self._end()
            self._on_lost()
            self._again()

    def _again(self) -> None:
        attempt = 0
        while not self._closing.wait(RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)]):
            try:
                self._serve(self._open())
                return
            except EngineLostError as error:
                _log.error("%s", error)
            attempt += 1

    def _listen(self, connection: Connection) -> None:
        """Return when the process is lost or must be given up."""
        heard = time.monotonic()
        while not self._closing.is_set():
            try:
                if connection.poll(POLL_SECONDS):
                    self._on_message(connection.recv())
                    heard = time.monotonic()
                elif not self._owes():
                    heard = time.monotonic()
                elif time.monotonic() - heard > STALL_SECONDS:
                    _log.error("the vLLM process did not respond for %.0f s", STALL_SECONDS)
                    return
            except (EOFError, OSError):
                return

    def _end(self) -> None:
        connection = self._connection
        if connection is not None:
            self._kill(connection)

    def _kill(self, connection: Connection) -> None:
        # Its memories are ours and its keys and values can be computed again: nothing to be saved.
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        with self._sending:  # which fails by now, and does not wait
            self._connection = None
            connection.close()
