"""Tables of the SQLite store, and how a file becomes one.

Knows the format and its versions; what the rows mean is in the other modules.
A file made by any earlier version opens with this one (tests/server/store/golden
holds one of each); a later one is refused.
"""

from __future__ import annotations

import sqlite3
import time

from server.store.errors import CorruptStoreError, StoreUnavailableError, StoreVersionError

APPLICATION_ID = 0x484F5045  # "HOPE": tells our files from other programs'.

# Blobs are one row each. SQLite spreads a large value over pages by itself: rows of 4 MB
# were no faster than one of 12 MB. A commit writes whole pages, and a turn changes some bytes
# in about ten of them: 40 kB with pages of 4 kB, four times that with 16 kB. A level of 12 MB is
# written in 82 ms with pages of 4 kB and in 70 ms with 16 kB, after seconds of learning.
# A file keeps the pages that it was made with, which were of 16 kB in earlier programs.
PAGE_BYTES = 4096

# The write-ahead log when nobody reads for long. Large enough that a small turn rarely pays for
# emptying it.
LOG_BYTES = 4 << 20

_TABLES = (
    # The head of a session and its lease, which go together. AUTOINCREMENT: an id is
    # never used again, so it serves as the incarnation.
    """CREATE TABLE sessions (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        user TEXT NOT NULL,
        name TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        policy TEXT NOT NULL,
        display_name TEXT NOT NULL,
        revision INTEGER NOT NULL,
        version INTEGER NOT NULL,
        parent_version INTEGER,
        log_seq INTEGER NOT NULL,
        nonce TEXT NOT NULL,
        summary BLOB NOT NULL,
        create_time REAL NOT NULL,
        update_time REAL NOT NULL,
        lease_owner TEXT,
        lease_fence INTEGER NOT NULL DEFAULT 0,
        lease_expires REAL NOT NULL DEFAULT 0,
        UNIQUE (user, name)
    )""",
    # One row: the last fence granted. It belongs to no session, so that it outlives
    # them without keeping the names of erased ones.
    "CREATE TABLE fence (last INTEGER NOT NULL)",
    "INSERT INTO fence VALUES (0)",
    # `data` comes last: the columns before it are read without walking its pages.
    """CREATE TABLE blobs (
        id INTEGER PRIMARY KEY,
        user TEXT NOT NULL,
        digest TEXT NOT NULL,
        size INTEGER NOT NULL,
        data BLOB NOT NULL,
        UNIQUE (user, digest)
    )""",
    """CREATE TABLE head_blobs (
        session INTEGER NOT NULL REFERENCES sessions ON DELETE CASCADE,
        name TEXT NOT NULL,
        blob INTEGER NOT NULL REFERENCES blobs,
        PRIMARY KEY (session, name)
    ) WITHOUT ROWID""",
    "CREATE INDEX head_blobs_by_blob ON head_blobs (blob)",
    """CREATE TABLE versions (
        session INTEGER NOT NULL REFERENCES sessions ON DELETE CASCADE,
        version INTEGER NOT NULL,
        parent_version INTEGER,
        log_seq INTEGER NOT NULL,
        fingerprint TEXT NOT NULL,
        policy TEXT NOT NULL,
        summary BLOB NOT NULL,
        create_time REAL NOT NULL,
        PRIMARY KEY (session, version)
    ) WITHOUT ROWID""",
    """CREATE TABLE version_blobs (
        session INTEGER NOT NULL,
        version INTEGER NOT NULL,
        name TEXT NOT NULL,
        blob INTEGER NOT NULL REFERENCES blobs,
        PRIMARY KEY (session, version, name),
        FOREIGN KEY (session, version) REFERENCES versions ON DELETE CASCADE
    ) WITHOUT ROWID""",
    "CREATE INDEX version_blobs_by_blob ON version_blobs (blob)",
    """CREATE TABLE log (
        session INTEGER NOT NULL REFERENCES sessions ON DELETE CASCADE,
        seq INTEGER NOT NULL,
        kind TEXT NOT NULL,
        payload BLOB NOT NULL,
        PRIMARY KEY (session, seq)
    )""",
    """CREATE TABLE replies (
        session INTEGER NOT NULL REFERENCES sessions ON DELETE CASCADE,
        request_id TEXT NOT NULL,
        body_digest BLOB NOT NULL,
        payload BLOB NOT NULL,
        expires_at REAL NOT NULL,
        PRIMARY KEY (session, request_id)
    )""",
    "CREATE INDEX replies_by_expiry ON replies (expires_at)",
)

_SNAPSHOTS = (
    """CREATE TABLE snapshots (
        session INTEGER NOT NULL,
        name TEXT NOT NULL,
        version INTEGER NOT NULL,
        create_time REAL NOT NULL,
        PRIMARY KEY (session, name),
        FOREIGN KEY (session, version) REFERENCES versions ON DELETE CASCADE
    ) WITHOUT ROWID""",
)

_JOBS = (
    """CREATE TABLE jobs (
        session INTEGER PRIMARY KEY REFERENCES sessions ON DELETE CASCADE,
        request BLOB NOT NULL,
        progress BLOB NOT NULL,
        create_time REAL NOT NULL
    )""",
    """CREATE TABLE job_blobs (
        session INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
        name TEXT NOT NULL,
        blob INTEGER NOT NULL REFERENCES blobs,
        PRIMARY KEY (session, name)
    ) WITHOUT ROWID""",
    "CREATE INDEX job_blobs_by_blob ON job_blobs (blob)",
)

_BYTES = (
    # Kept with the head, because adding up a long log before every turn would be felt.
    "ALTER TABLE sessions ADD COLUMN log_bytes INTEGER NOT NULL DEFAULT 0",
    "UPDATE sessions SET log_bytes ="
    " (SELECT coalesce(sum(length(payload)), 0) FROM log WHERE session = sessions.id)",
    # Adding up a user's blobs reads this and not their rows.
    "CREATE INDEX blobs_by_size ON blobs (user, size)",
)

_BUCKETS = (
    "CREATE TABLE buckets (user TEXT PRIMARY KEY, level REAL NOT NULL, time REAL NOT NULL)"
    " WITHOUT ROWID",
)

# Statements that lead from version i to version i + 1. Never change one that was released.
STEPS: tuple[tuple[str, ...], ...] = (_TABLES, _SNAPSHOTS, _JOBS, _BYTES, _BUCKETS)
SCHEMA_VERSION = len(STEPS)


def prepare(connection: sqlite3.Connection, where: str, busy_seconds: float) -> None:
    """Set the connection up and bring the file at `where` to SCHEMA_VERSION.

    Raises CorruptStoreError for another program's file, StoreVersionError,
    StoreUnavailableError, sqlite3.Error. Safe while another process does the same."""
    connection.execute(f"PRAGMA busy_timeout = {int(busy_seconds * 1000)}")
    _refuse_foreign(connection, where)
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    _use_wal(connection, where, busy_seconds)
    # The log goes back into the database, and is written from its beginning again, before it is
    # larger than this; a larger one, left by a long reader, is cut to it then.
    page_bytes = _pragma(connection, "page_size")
    connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_BYTES // page_bytes}")
    connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
    # FULL: a commit that was acknowledged survives a loss of power.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    # What is deleted is overwritten: erasing a memory must not leave it on free pages.
    connection.execute("PRAGMA secure_delete = ON")
    _migrate(connection)


def _refuse_foreign(connection: sqlite3.Connection, where: str) -> None:
    # One transaction: between two reads another process may make the file ours.
    connection.execute("BEGIN")
    try:
        application = _pragma(connection, "application_id")
        version = _pragma(connection, "user_version")
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    finally:
        connection.rollback()
    if application != APPLICATION_ID and (application or version or tables):
        raise CorruptStoreError(
            f"{where} is a database of another program; choose another file for the store"
        )
    if version > SCHEMA_VERSION:
        raise StoreVersionError(
            f"{where} has format {version}, and this program supports formats up to "
            f"{SCHEMA_VERSION}; use a newer program"
        )


def _use_wal(connection: sqlite3.Connection, where: str, busy_seconds: float) -> None:
    # Two processes that switch a new file at once find each other's lock, and SQLite
    # does not apply the busy timeout to this pragma.
    deadline = time.monotonic() + busy_seconds
    while True:
        try:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            break
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    if mode not in ("wal", "memory"):
        raise StoreUnavailableError(
            f"{where} cannot use write-ahead logging; move it to a local file system"
        )


def _migrate(connection: sqlite3.Connection) -> None:
    if _pragma(connection, "user_version") == SCHEMA_VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Read again under the lock: another process may have been first.
        for step in STEPS[_pragma(connection, "user_version") :]:
            for statement in step:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value
