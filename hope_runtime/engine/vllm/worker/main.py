"""The process of vLLM: one thread that steps, one that reads what the server says.

    python -m hope_runtime.engine.vllm.worker.main FILE_DESCRIPTOR

Holds nothing that cannot be made again: memories are the server's. It ends when the server does.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import time
from multiprocessing.connection import Connection

from hope_runtime.engine.vllm.messages import (
    Abort,
    Begin,
    Drop,
    Forget,
    Options,
    Piece,
    Put,
    Ready,
    Refused,
    Stepped,
    ToProcess,
)
from hope_runtime.engine.vllm.worker.decoder import Decoder
from hope_runtime.engine.vllm.worker.selftest import NotIsolatedError, check_isolation

_log = logging.getLogger(__name__)


def main(connection: Connection) -> int:
    """Serve until the socket closes. Returns the exit status."""
    started = time.monotonic()
    options = connection.recv()
    assert isinstance(options, Options)
    inbox: queue.SimpleQueue[ToProcess] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, inbox), daemon=True).start()
    try:
        decoder = Decoder(options)
        check_isolation(decoder, options)
    except NotIsolatedError as error:
        connection.send(Refused(str(error)))
        return 1
    except Exception as error:
        _log.exception("vLLM cannot start")
        connection.send(Refused(f"vLLM cannot start: {error}"))
        return 1
    connection.send(Ready(time.monotonic() - started))
    while True:
        pieces = _obey(decoder, inbox)
        if decoder.busy:
            pieces += decoder.step()
        connection.send(Stepped(tuple(pieces)))


def _obey(decoder: Decoder, inbox: queue.SimpleQueue[ToProcess]) -> list[Piece]:
    """Do what was said since; waits for something when there is nothing to do."""
    pieces = []
    wait = not decoder.busy
    while wait or not inbox.empty():
        match inbox.get():
            case Put(adapter, tensors):
                decoder.put(adapter, tensors)
            case Drop(adapter):
                decoder.drop(adapter)
            case Forget(turn):
                decoder.forget(turn)
            case Abort(request):
                if decoder.abort(request):
                    pieces.append(Piece(request, ended=True))
            case Begin() as begin:
                try:
                    decoder.begin(begin)
                except ValueError as error:
                    pieces.append(Piece(begin.request, ended=True, failure=str(error)))
        wait = False
    return pieces


def _listen(connection: Connection, inbox: queue.SimpleQueue[ToProcess]) -> None:
    while True:
        try:
            inbox.put(connection.recv())
        except (EOFError, OSError):
            os._exit(0)  # in the middle of a step too: nobody wants what comes of it


def run() -> int:
    """Serve on the socket that the command line names."""
    logging.basicConfig(level=logging.WARNING)
    return main(Connection(int(sys.argv[1])))


if __name__ == "__main__":
    sys.exit(run())
