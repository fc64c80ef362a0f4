"""Clients in processes that fork: a child can have clients of its own, and none of its parent's.

A fork copies a client without its threads, so its calls would wait for ever: they raise
ClientForkedError instead. gRPC itself can begin anew in a child only if it was at rest when the
process was forked. So before a fork every client that no call is using lets go of its connection,
and opens another one with its next call. This module knows which clients these are.
"""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
import weakref
from pathlib import Path
from typing import Protocol

from hope_client.errors import ClientForkedError


class Parkable(Protocol):
    """A client that can do without its connection between two calls."""

    def park(self) -> None:
        """Lets go of the connection if no call uses it, and keeps every call from beginning until
        `unpark`."""

    def unpark(self) -> None:
        """Lets calls begin again."""


class Connected(Protocol):
    """Holder of a connection."""

    @property
    def closed(self) -> bool: ...


# As gRPC names its threads, cut to what Linux keeps of a name.
_GRPC_THREADS = ("event_engine", "grpc_", "lifeguard", "timer_manager", "resolver-")
_REST_SECONDS = 1.0


def _grpc_rests() -> bool:
    """Whether gRPC's threads have ended, which they do a moment after the last connection. True
    where the system does not tell."""
    deadline = time.monotonic() + _REST_SECONDS
    while any(name.startswith(_GRPC_THREADS) for name in _thread_names()):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def _thread_names() -> list[str]:
    names = []
    for file in Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            names.append(file.read_text())
    return names


class _Forks:
    """The clients of this process."""

    def __init__(self) -> None:
        # Held while a client is added, so that none appears in the middle of a fork.
        self.lock = threading.Lock()
        self.clients: weakref.WeakSet[Parkable] = weakref.WeakSet()
        self.connections: weakref.WeakSet[Connected] = weakref.WeakSet()
        # Whether gRPC was in use when this process was forked from its parent.
        self.spoilt = False
        self._in_use = False
        self._parked: list[Parkable] = []

    def before(self) -> None:
        self.lock.acquire()
        self._parked = list(self.clients)
        for client in self._parked:
            client.park()
        if self.connections:
            gc.collect()  # What is closed keeps gRPC awake until it is gone.
        self._in_use = any(not each.closed for each in self.connections)
        if self.clients or self.connections:
            self._in_use = self._in_use or not _grpc_rests()

    def after_in_parent(self) -> None:
        for client in self._parked:
            client.unpark()
        self._parked = []
        self.lock.release()

    def after_in_child(self) -> None:
        self.spoilt = self.spoilt or self._in_use
        self.connections = weakref.WeakSet()
        self.after_in_parent()
        self.clients = weakref.WeakSet()


_forks = _Forks()
os.register_at_fork(
    before=_forks.before,
    after_in_parent=_forks.after_in_parent,
    after_in_child=_forks.after_in_child,
)


def add_client(client: Parkable) -> None:
    """Makes forks known to a client, before it starts a thread or a connection.

    Raises:
        ClientForkedError: gRPC cannot be used in this process.
    """
    _check_usable()
    with _forks.lock:
        _forks.clients.add(client)


def add_connection(connection: Connected) -> None:
    """Makes a connection known to forks.

    Raises:
        ClientForkedError: gRPC cannot be used in this process.
    """
    _check_usable()
    _forks.connections.add(connection)


def _check_usable() -> None:
    if _forks.spoilt:
        raise ClientForkedError(
            "this process was forked while a client of its parent was in use, and gRPC cannot "
            "begin anew in it; close that client before the fork, or start processes by 'spawn'"
        )


class Birthplace:
    """The process in which something was made."""

    def __init__(self) -> None:
        self._process = os.getpid()

    @property
    def left(self) -> bool:
        """Whether this process is another one, which was forked from it."""
        return os.getpid() != self._process

    def check(self) -> None:
        """Raises ClientForkedError in another process."""
        if self.left:
            raise ClientForkedError(
                "the client was made before this process was forked; make a new one here"
            )
