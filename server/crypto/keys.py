"""Keys: one of each user for what is theirs, kept in a file of its own, wrapped by a master key.

The file with the wrapped keys must not be in the backups of the sessions, and the master key not in
the backups of either. Then destroying a user's key erases the user, in every copy of the sessions
there is. It does not reach copies of the key file itself, so keep those for days and not for years.

The master key comes from a file, or from the environment: lines of 64 hexadecimal digits. The first
one wraps; the others unwrap what older ones wrapped. To change it, put a new line before the old,
start the servers again, which wrap every key anew, and take the old line away.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

from server.crypto.cipher import KEY_BYTES, Cipher, UnsealError

_LINE = re.compile(rf"[0-9a-fA-F]{{{2 * KEY_BYTES}}}")
_TABLE = (
    "CREATE TABLE IF NOT EXISTS keys (user TEXT PRIMARY KEY, wrapped BLOB NOT NULL) WITHOUT ROWID"
)
T = TypeVar("T")


class KeyDisk(Protocol):
    """The disk under the file of keys (server/store/sqlite/disk.py), whose errors callers get."""

    def opened(self) -> None:
        """Remember which files are open, and set a reserve aside."""

    def require_same_files(self) -> None:
        """Raise the disk's error when a file was removed or replaced since it was opened."""

    def make_reserve(self) -> None:
        """Set the reserve aside as far as there is room."""

    def release_reserve(self) -> None:
        """Give the reserve to whatever is written next."""


class KeysUnavailableError(Exception):
    """The file of the users' keys is closed, busy or out of reach."""


class LostMasterKeyError(Exception):
    """A user's key was wrapped by a master key that was not given."""


class MasterKeyError(ValueError):
    """The master key is missing or in another form; the message never quotes it."""


def parse_master_keys(text: str, where: str) -> tuple[bytes, ...]:
    """The keys of a file or variable, the one that wraps first. Raises MasterKeyError."""
    lines = text.split()
    if not lines or not all(_LINE.fullmatch(line) for line in lines):
        raise MasterKeyError(
            f"{where} must contain master keys as lines of {2 * KEY_BYTES} hexadecimal digits; "
            f"generate one with `openssl rand -hex {KEY_BYTES}`"
        )
    return tuple(bytes.fromhex(line) for line in lines)


class KeyStore:
    """Data keys of users in the SQLite file at `path` on `disk`. Open it before use.

    Safe for many processes of one machine at a time. Nothing is cached, so a key that another
    process destroyed is gone here too.
    """

    def __init__(self, path: Path, master_keys: tuple[bytes, ...], disk: KeyDisk) -> None:
        assert master_keys
        self._path = path
        self._disk = disk
        self._ciphers = [Cipher(key) for key in master_keys]
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hope-keys")
        self._connection: sqlite3.Connection | None = None  # set by open, cleared by close

    async def open(self) -> None:
        """Opens the file, makes it if there is none, and wraps anew what older master keys wrapped.

        Raises LostMasterKeyError when a key was wrapped by none of the master keys, and
        KeysUnavailableError."""
        await self._run(self._open)

    async def close(self) -> None:
        """Lets go of the file; twice does no harm."""
        await self._run(self._close)

    async def cipher(self, user: str, *, make: bool = False) -> Cipher:
        """Seals and opens what is the user's. A user without a key gets one if `make` says so.
        Raises UnsealError when there is none, and LostMasterKeyError."""
        return await self._run(lambda: self._cipher(user, make))

    async def destroy(self, user: str) -> None:
        """Takes the user's key away: nothing that it sealed can be read again."""
        await self._run(lambda: self._destroy(user))

    async def check_writable(self) -> None:
        """Raises the disk's error when the file was removed or replaced since it was opened."""

        def check() -> None:
            self._disk.require_same_files()
            self._disk.make_reserve()

        await self._run(check)

    async def _run(self, call: Callable[[], T]) -> T:
        def translated() -> T:
            try:
                return call()
            except sqlite3.Error as error:
                raise KeysUnavailableError(f"key database {self._path} failed: {error}") from error

        return await asyncio.get_running_loop().run_in_executor(self._thread, translated)

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if not self._path.exists():
            os.close(os.open(self._path, os.O_CREAT | os.O_WRONLY, 0o600))
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA busy_timeout = 10000")
            # No write-ahead log: what is overwritten here must not live on in another file.
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute(_TABLE)
            self._connection = connection
            self._rewrap()
            self._disk.opened()
        except BaseException:
            self._connection = None
            connection.close()
            raise

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def _open_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise KeysUnavailableError(f"key database {self._path} is not open")
        return self._connection

    def _cipher(self, user: str, make: bool) -> Cipher:
        connection = self._open_connection
        read = "SELECT wrapped FROM keys WHERE user = ?"
        row = connection.execute(read, (user,)).fetchone()
        if row is None and not make:
            raise UnsealError("the key of this user no longer exists")
        if row is None:
            # A key that is written into a removed file is gone with the next start, and with it all
            # that it sealed.
            self._disk.require_same_files()
            fresh = self._ciphers[0].seal(secrets.token_bytes(KEY_BYTES), _place(user))
            connection.execute("INSERT OR IGNORE INTO keys VALUES (?, ?)", (user, fresh))
            # Another process may have been first.
            row = connection.execute(read, (user,)).fetchone()
        return Cipher(self._unwrapped(user, row[0])[0])

    def _destroy(self, user: str) -> None:
        self._disk.require_same_files()
        # Given back by the next check: without any room the key could not be taken away.
        self._disk.release_reserve()
        self._open_connection.execute("DELETE FROM keys WHERE user = ?", (user,))

    def _rewrap(self) -> None:
        connection = self._open_connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            for user, wrapped in connection.execute("SELECT user, wrapped FROM keys").fetchall():
                key, is_current = self._unwrapped(user, wrapped)
                if not is_current:
                    anew = self._ciphers[0].seal(key, _place(user))
                    connection.execute("UPDATE keys SET wrapped = ? WHERE user = ?", (anew, user))
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise

    def _unwrapped(self, user: str, wrapped: bytes) -> tuple[bytes, bool]:
        for index, cipher in enumerate(self._ciphers):
            try:
                return cipher.open(wrapped, _place(user)), index == 0
            except UnsealError:
                continue
        raise LostMasterKeyError(
            f"{self._path} contains a key wrapped by a master key that was not given; add that "
            "master key to the master keys"
        )


def _place(user: str) -> tuple[str, str]:
    return ("data key", user)
