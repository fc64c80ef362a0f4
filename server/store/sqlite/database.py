"""The thread, the transactions and the file of a SQLite store.

Every call runs on one thread of its own, so that no disk ever holds up the event
loop, and each is one transaction there. A caller that is cancelled leaves a call
that has begun to complete, and takes back one that has not.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from server.store.base import StoreFullError, StoreUnavailableError
from server.store.leases import LeaseWatch
from server.store.sqlite.disk import Disk
from server.store.sqlite.faults import translate
from server.store.sqlite.rows import Tx
from server.store.sqlite.schema import LOG_BYTES, prepare
from server.store.sqlite.scrubbing import begin_scrubbing, is_scrubbing_due, scrub

P = ParamSpec("P")
T = TypeVar("T")


class Database:
    """The file at `path`, or memory with ":memory:". What its transactions do is not known here."""

    def __init__(
        self,
        path: str | Path,
        *,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
        busy_seconds: float = 10.0,
    ) -> None:
        self._leases = LeaseWatch(timer)
        self._where = str(path)
        # None in memory.
        self._disk = None if self._where == ":memory:" else Disk(Path(path))
        self._clock = clock
        self._busy_seconds = busy_seconds
        # The log was to be emptied, and somebody read it still.
        self._owes_empty_log = False
        # Both are set by open() and cleared by close().
        self._thread: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None

    # The thread and its transactions

    async def open(self) -> None:
        assert self._thread is None, "the store is already open"
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
            if self._disk is not None:
                self._create_private_file()
            # No implicit transactions: they begin and end in _transact alone.
            connection = sqlite3.connect(self._where, isolation_level=None, check_same_thread=False)
            try:
                prepare(connection, self._where, self._busy_seconds)
                self._finish_scrubbing(connection)
            except BaseException:
                connection.close()
                raise
        connection.row_factory = sqlite3.Row
        if self._disk is not None:
            self._disk.opened()
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
        return await self._run(
            lambda connection: self._change(connection, lambda tx: operation(tx, *args, **kwargs))
        )

    def _change(self, connection: sqlite3.Connection, operation: Callable[[Tx], T]) -> T:
        if self._disk is not None:
            self._disk.require_same_files()
        # IMMEDIATE: a reader that turns writer would fail on another process's commit.
        return self._transact(connection, "BEGIN IMMEDIATE", operation)

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
            try:
                result = self._change(connection, lambda tx: operation(tx, *args, **kwargs))
            except StoreFullError:
                result = self._erase_when_full(
                    connection, lambda tx: operation(tx, *args, **kwargs)
                )
            # The erasure is done and must not fail for this.
            self._empty_log(connection)
            return result

        return await self._run(erase)

    def _erase_when_full(self, connection: sqlite3.Connection, operation: Callable[[Tx], T]) -> T:
        """Erase with as little room as can be: see `scrubbing`."""
        if self._disk is not None:
            self._disk.release_reserve()

        def erase(tx: Tx) -> T:
            result = operation(tx)
            begin_scrubbing(connection)
            return result

        connection.execute("PRAGMA secure_delete = FAST")
        try:
            # Emptying the log may need more room than there is, and may be what makes room.
            try:
                result = self._change(connection, erase)
            except StoreFullError:
                self._empty_log(connection)
                result = self._change(connection, erase)
        finally:
            connection.execute("PRAGMA secure_delete = ON")
        self._empty_log(connection)
        self._finish_scrubbing(connection)
        return result

    def _finish_scrubbing(self, connection: sqlite3.Connection) -> None:
        # What fails is tried again when there is room, or the file is opened: the rows are gone
        # all the same.
        with contextlib.suppress(sqlite3.Error):
            if is_scrubbing_due(connection):
                scrub(connection)
                self._empty_log(connection)

    async def _check_writable(self, room_bytes: int) -> None:
        def check(connection: sqlite3.Connection) -> None:
            if self._disk is None:
                return
            self._disk.require_same_files()
            if self._owes_empty_log or self._disk.log_bytes() > 2 * LOG_BYTES:
                self._empty_log(connection)
            if room_bytes:
                self._disk.require_room(room_bytes)
                self._finish_scrubbing(connection)
                self._disk.make_reserve()

        await self._run(check)

    def _empty_log(self, connection: sqlite3.Connection) -> None:
        """Move the write-ahead log into the database and cut it to nothing. A reader in another
        process that is in the way is not waited for: `_check_writable` tries again."""
        connection.execute("PRAGMA busy_timeout = 0")
        try:
            busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._owes_empty_log = bool(busy)
        except sqlite3.Error:
            self._owes_empty_log = True
        finally:
            connection.execute(f"PRAGMA busy_timeout = {int(self._busy_seconds * 1000)}")
