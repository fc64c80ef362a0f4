"""SQLite store: the thread, the transactions and the file.

Every call runs on one thread of its own, so that no disk ever holds up the event
loop, and each is one transaction there. What the transactions do is in the
modules beside this one. A caller that is cancelled leaves a call that has begun
to complete, and takes back one that has not.

Many processes may open one file. A process that is stopped in the middle of a
write holds the others up: they wait `busy_seconds`, then get
StoreUnavailableError.

Erasing overwrites rows and empties the write-ahead log. It does not reach
backups, snapshots of the file system, or blocks that a device has remapped.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from server.store.base import (
    MAX_PAGE_SIZE,
    Commit,
    Head,
    Lease,
    LogRecord,
    Record,
    SessionKey,
    SessionStore,
    Snapshot,
    StoredReply,
    StoreUnavailableError,
    VersionInfo,
)
from server.store.sqlite import check, history, leases, reading, sessions, snapshots
from server.store.sqlite.faults import translate
from server.store.sqlite.rows import Tx
from server.store.sqlite.schema import SCHEMA_VERSION, prepare

P = ParamSpec("P")
T = TypeVar("T")


class SQLiteStore(SessionStore):
    """Sessions in the file at `path`, or in memory with ":memory:"."""

    def __init__(
        self,
        path: str | Path,
        *,
        clock: Callable[[], float] = time.time,
        busy_seconds: float = 10.0,
    ) -> None:
        self._where = str(path)
        self._clock = clock
        self._busy_seconds = busy_seconds
        # Both are set by open() and cleared by close().
        self._thread: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None

    # The thread and its transactions

    async def open(self) -> None:
        assert self._thread is None, "the store is open already"
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hope-store")
        try:
            self._connection = await asyncio.get_running_loop().run_in_executor(
                thread, self._connect
            )
        except BaseException:
            thread.shutdown(wait=False)
            raise
        self._thread = thread

    async def close(self) -> None:
        thread, connection = self._thread, self._connection
        self._thread = self._connection = None
        if thread is None or connection is None:
            return
        # Calls made before this one are ahead of it in the thread's queue.
        closing = asyncio.get_running_loop().run_in_executor(thread, connection.close)
        thread.shutdown(wait=False)
        await asyncio.shield(closing)

    def _connect(self) -> sqlite3.Connection:
        with self._translated_errors():
            if self._where != ":memory:":
                self._create_private_file()
            # No implicit transactions: they begin and end in _transact alone.
            connection = sqlite3.connect(self._where, isolation_level=None, check_same_thread=False)
            try:
                prepare(connection, self._where, self._busy_seconds)
            except BaseException:
                connection.close()
                raise
        connection.row_factory = sqlite3.Row
        return connection

    def _create_private_file(self) -> None:
        # Only when it is missing: closing a descriptor of a file that SQLite has open
        # in this process would drop SQLite's locks on it. The files that SQLite puts
        # beside it inherit the mode.
        try:
            os.close(os.open(self._where, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            pass
        except OSError as error:
            raise StoreUnavailableError(f"cannot create {self._where}: {error}") from error

    async def _run(self, call: Callable[[sqlite3.Connection], T]) -> T:
        thread, connection = self._thread, self._connection
        if thread is None or connection is None:
            raise StoreUnavailableError(f"{self._where} is not open")
        return await asyncio.get_running_loop().run_in_executor(thread, call, connection)

    async def _read(
        self, operation: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._run(
            lambda connection: self._transact(
                connection, "BEGIN", lambda tx: operation(tx, *args, **kwargs)
            )
        )

    async def _write(
        self, operation: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        # IMMEDIATE: a reader that turns writer would fail on another process's commit.
        return await self._run(
            lambda connection: self._transact(
                connection, "BEGIN IMMEDIATE", lambda tx: operation(tx, *args, **kwargs)
            )
        )

    def _transact(
        self, connection: sqlite3.Connection, begin: str, operation: Callable[[Tx], T]
    ) -> T:
        with self._translated_errors():
            connection.execute(begin)
            try:
                result = operation(Tx(connection, self._clock()))
                connection.execute("COMMIT")
            except BaseException:
                # After some errors SQLite has rolled back by itself.
                if connection.in_transaction:
                    with contextlib.suppress(sqlite3.Error):
                        connection.execute("ROLLBACK")
                raise
        return result

    @contextlib.contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if (known := translate(error, self._where)) is None:
                raise
            raise known from error

    async def _erase(
        self, operation: Callable[Concatenate[Tx, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Write, then empty the write-ahead log, which still holds what was erased."""

        def erase(connection: sqlite3.Connection) -> T:
            result = self._transact(
                connection, "BEGIN IMMEDIATE", lambda tx: operation(tx, *args, **kwargs)
            )
            # The erasure is done and must not fail for this; what a reader in another
            # process holds back goes with the next checkpoint.
            with contextlib.suppress(sqlite3.Error):
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            return result

        return await self._run(erase)

    # Sessions

    async def create(
        self,
        key: SessionKey,
        *,
        fingerprint: str,
        policy: str,
        display_name: str = "",
        blobs: Mapping[str, bytes],
        summary: bytes,
    ) -> Head:
        return await self._write(
            sessions.create,
            key,
            fingerprint=fingerprint,
            policy=policy,
            display_name=display_name,
            blobs=blobs,
            summary=summary,
        )

    async def head(self, key: SessionKey) -> Head:
        return await self._read(sessions.head, key)

    async def list_sessions(
        self, user: str, *, page_size: int = 50, page_token: str = ""
    ) -> tuple[list[Head], str]:
        if not 1 <= page_size <= MAX_PAGE_SIZE:
            raise ValueError(f"page_size must be 1 to {MAX_PAGE_SIZE}, not {page_size}")
        return await self._read(sessions.list_sessions, user, page_size, page_token)

    async def delete(self, key: SessionKey, *, etag: str | None = None) -> None:
        await self._erase(sessions.delete, key, etag)

    async def delete_user(self, user: str) -> int:
        return await self._erase(sessions.delete_user, user)

    # Leases

    async def acquire(self, key: SessionKey, owner: str, ttl_seconds: float) -> Lease:
        if ttl_seconds <= 0 or not owner:
            raise ValueError("a lease needs an owner and a positive number of seconds")
        return await self._write(leases.acquire, key, owner, ttl_seconds)

    async def renew(self, lease: Lease, ttl_seconds: float) -> Lease:
        if ttl_seconds <= 0:
            raise ValueError("a lease needs a positive number of seconds")
        return await self._write(leases.renew, lease, ttl_seconds)

    async def release(self, lease: Lease) -> None:
        await self._write(leases.release, lease)

    # Changes

    async def commit(self, lease: Lease, commit: Commit) -> Head:
        return await self._write(history.commit, lease, commit)

    async def rollback(
        self,
        lease: Lease,
        *,
        expected_revision: int,
        nonce: str,
        to_version: int,
        record: Record,
        summary: bytes | None = None,
    ) -> Head:
        if not nonce:
            raise ValueError("a rollback needs a nonce")
        return await self._write(
            history.rollback,
            lease,
            expected_revision=expected_revision,
            nonce=nonce,
            to_version=to_version,
            record=record,
            summary=summary,
        )

    # Reading

    async def read_blobs(
        self, key: SessionKey, names: Sequence[str] | None = None, *, version: int | None = None
    ) -> dict[str, bytes]:
        return await self._read(reading.read_blobs, key, names, version)

    async def read_log(
        self, key: SessionKey, *, after_seq: int = 0, limit: int = 1000
    ) -> list[LogRecord]:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        return await self._read(reading.read_log, key, after_seq, limit)

    async def find_reply(self, key: SessionKey, request_id: str) -> StoredReply | None:
        return await self._read(reading.find_reply, key, request_id)

    # Versions

    async def versions(self, key: SessionKey) -> list[VersionInfo]:
        return await self._read(history.versions, key)

    async def fork(
        self, source: SessionKey, target: SessionKey, *, version: int | None = None
    ) -> Head:
        if source.user != target.user:
            raise ValueError("a fork stays with its user")
        return await self._write(history.fork, source, target, version)

    async def collect(self, key: SessionKey, keep_recent: int) -> int:
        if keep_recent < 1:
            raise ValueError("the present version cannot be collected")
        return await self._write(history.collect, key, keep_recent)

    # Snapshots

    async def snapshot(self, key: SessionKey, name: str) -> Snapshot:
        if not name:
            raise ValueError("a snapshot needs a name")
        return await self._write(snapshots.snapshot, key, name)

    async def snapshots(
        self, key: SessionKey, *, page_size: int = 50, page_token: str = ""
    ) -> tuple[list[Snapshot], str]:
        if not 1 <= page_size <= MAX_PAGE_SIZE:
            raise ValueError(f"page_size must be 1 to {MAX_PAGE_SIZE}, not {page_size}")
        return await self._read(snapshots.snapshots, key, page_size, page_token)

    async def delete_snapshot(self, key: SessionKey, name: str) -> None:
        await self._write(snapshots.delete_snapshot, key, name)

    # Upkeep

    @property
    def schema_version(self) -> int:
        return SCHEMA_VERSION

    async def check_integrity(self) -> list[str]:
        return await self._read(check.broken_laws)
