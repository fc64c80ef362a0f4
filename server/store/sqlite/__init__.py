"""Sessions in one SQLite file: the store that needs no other program."""

from server.store.sqlite.store import SQLiteStore

__all__ = ["SQLiteStore"]
