"""The stores that the suite in this folder runs against, and how to disturb them.

A new store joins by a class like SQLiteHarness and a line in PLAIN. Each is tried as it is, and
with encryption around it. Redis' protocol is spoken by two servers: valkey-server, which comes with
the tests, and redis-server where there is one.
"""

import itertools
import sqlite3
from pathlib import Path
from typing import Any, Protocol

from valkey_process import binaries, shared

from server.crypto.cipher import KEY_BYTES, OVERHEAD_BYTES
from server.store.base import Commit, Head, Record, SessionKey, SessionStore
from server.store.encrypted import EncryptedStore
from server.store.factory import key_store
from server.store.redis import RedisStore
from server.store.sqlite import SQLiteStore

KEY = SessionKey("ada", "notes")
_nonces = itertools.count()


class Harness(Protocol):
    """One store. `now` is its clock and `ticks` the monotonic one of its handles; both stand still
    until a test moves them."""

    now: float
    ticks: float
    overhead_bytes: int
    """What each blob and log record takes in the store beside its content."""
    histories: int
    """Random histories that are tried: a store on the network takes longer for each."""

    def __init__(self, directory: Path) -> None: ...

    def connect(self) -> SessionStore:
        """A handle, not open yet, on the same data: what another process would have."""
        ...

    def damage_blobs(self) -> None:
        """Change stored blobs behind the store's back, keeping their sizes."""
        ...


class SQLiteHarness:
    overhead_bytes = 0
    histories = 25

    def __init__(self, directory: Path) -> None:
        self.now = 1_000_000.0
        self.ticks = 50.0
        self._path = directory / "store.db"

    def connect(self) -> SessionStore:
        return SQLiteStore(self._path, clock=lambda: self.now, timer=lambda: self.ticks)

    def damage_blobs(self) -> None:
        with sqlite3.connect(self._path) as connection:
            connection.execute("UPDATE blobs SET data = zeroblob(size)")
        connection.close()


class RedisHarness:
    """One server for all tests, emptied for each."""

    kind = "valkey"
    overhead_bytes = 0
    histories = 6

    def __init__(self, directory: Path) -> None:
        self.now = 1_000_000.0
        self.ticks = 50.0
        self._server = shared(self.kind)
        with self._server.client() as client:
            client.flushall()

    def connect(self) -> SessionStore:
        return RedisStore(self._server.url, clock=lambda: self.now, timer=lambda: self.ticks)

    def damage_blobs(self) -> None:
        with self._server.client() as client:
            for key in client.scan_iter("hope:{*:chunk:*"):
                client.set(key, bytes(client.strlen(key)), keepttl=True)


def encrypted(plain: type[Harness]) -> type[Harness]:
    """The same store with encryption around it. Its users' keys lie in a file."""

    class EncryptedHarness(plain):  # type: ignore[misc, valid-type]
        overhead_bytes = OVERHEAD_BYTES

        def __init__(self, directory: Path) -> None:
            super().__init__(directory)
            self._keys = directory / "keys.db"

        def connect(self) -> SessionStore:
            return EncryptedStore(super().connect(), key_store(self._keys, (b"m" * KEY_BYTES,)))

    return EncryptedHarness


PLAIN: dict[str, type[Harness]] = {"sqlite": SQLiteHarness} | {
    kind: type(f"{kind.title()}Harness", (RedisHarness,), {"kind": kind}) for kind in binaries()
}
HARNESSES = PLAIN | {f"encrypted-{name}": encrypted(plain) for name, plain in PLAIN.items()}


def change(head: Head, **fields: Any) -> Commit:
    """A commit on top of `head` that keeps version and summary unless told otherwise."""
    defaults = {
        "expected_revision": head.revision,
        "nonce": f"nonce-{next(_nonces)}",
        "version": head.version,
        "summary": head.summary,
    }
    return Commit(**(defaults | fields))


async def make(store: SessionStore, key: SessionKey = KEY, **fields: Any) -> Head:
    """A session with two blobs."""
    defaults: dict[str, Any] = {
        "fingerprint": "base-1",
        "policy": "default",
        "blobs": {"fast": b"f0", "level": b"l0"},
        "summary": b"{}",
    }
    return await store.create(key, **(defaults | fields))


async def rollback(
    store: SessionStore, lease: Any, head: Head, to_version: int, **fields: Any
) -> Head:
    defaults: dict[str, Any] = {
        "expected_revision": head.revision,
        "nonce": f"nonce-{next(_nonces)}",
        "to_version": to_version,
        "record": Record("rollback", str(to_version).encode()),
    }
    return await store.rollback(lease, **(defaults | fields))
