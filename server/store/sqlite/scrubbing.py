"""Overwriting what was erased while the disk was full.

As a rule SQLite overwrites what it deletes in the same transaction (`secure_delete`). That doubles
what a deletion writes, and on a full disk there is no room for it. Then rows are only unlinked,
which takes a few pages, and the pages that they leave free are overwritten here, a few at a time:
filled with zeros as rows of a table that is dropped in the end. In between, the write-ahead log is
emptied into the database, which takes no room.
"""

from __future__ import annotations

import sqlite3

_TABLE = "scrubbed"
# Pages overwritten in one transaction.
_PAGES_AT_ONCE = 16


def is_scrubbing_due(connection: sqlite3.Connection) -> bool:
    """Whether a process ended in the middle of it."""
    query = "SELECT count(*) FROM sqlite_master WHERE name = ?"
    return bool(connection.execute(query, (_TABLE,)).fetchone()[0])


def begin_scrubbing(connection: sqlite3.Connection) -> None:
    """Says in the database that pages are to be overwritten, in the transaction that erases."""
    connection.execute(f"CREATE TABLE IF NOT EXISTS {_TABLE} (data BLOB NOT NULL)")


def scrub(connection: sqlite3.Connection) -> None:
    """Overwrites every free page. Raises sqlite3.Error; what is left is due when the file is opened
    again, or erased from again."""
    page_bytes: int = connection.execute("PRAGMA page_size").fetchone()[0]
    # Dropping pages of zeros need not overwrite them.
    connection.execute("PRAGMA secure_delete = FAST")
    try:
        while free := connection.execute("PRAGMA freelist_count").fetchone()[0]:
            pages = max(1, min(_PAGES_AT_ONCE, free - 1))
            # A row's first part lies in its table's page, the rest fills whole pages of its own.
            size = page_bytes // 2 + (pages - 1) * (page_bytes - 4)
            connection.execute(f"INSERT INTO {_TABLE} VALUES (zeroblob(?))", (size,))
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        connection.execute(f"DROP TABLE {_TABLE}")
    finally:
        connection.execute("PRAGMA secure_delete = ON")
