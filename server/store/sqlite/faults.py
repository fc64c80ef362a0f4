"""Translation of SQLite's result codes into a store's errors."""

from __future__ import annotations

import sqlite3

from server.store.errors import (
    CorruptStoreError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
)

# A quota or a file size limit reaches us as a failed write, not as SQLITE_FULL.
_FAILED_WRITES = {
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_DIR_FSYNC,
    sqlite3.SQLITE_IOERR_TRUNCATE,
    sqlite3.SQLITE_IOERR_SHMSIZE,
}


def translate(error: sqlite3.Error, where: str) -> StoreError | None:
    """The store's error for one of SQLite, None when it is a defect of ours."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return None
    primary = code & 0xFF
    if primary in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY) or code in _FAILED_WRITES:
        return StoreFullError(
            f"cannot write to {where} ({error}); free disk space or grant write permission, then "
            "retry"
        )
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return CorruptStoreError(
            f"{where} is damaged or not a database ({error}); move it away together with its "
            "-wal and -shm files and restore a backup"
        )
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreUnavailableError(f"{where} is locked by another process; retry")
    if primary in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_IOERR):
        return StoreUnavailableError(f"cannot use {where} ({error}); check its directory and disk")
    return None
