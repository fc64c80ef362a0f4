"""Names for versions. Contracts are in `base`."""

from __future__ import annotations

import sqlite3

from server.store.errors import SnapshotExistsError, SnapshotNotFoundError
from server.store.sqlite.rows import Tx, session_row
from server.store.values import SessionKey, Snapshot


def snapshot(tx: Tx, key: SessionKey, name: str) -> Snapshot:
    row = session_row(tx, key)
    if tx.one("SELECT 1 FROM snapshots WHERE session = ? AND name = ?", row["id"], name):
        raise SnapshotExistsError(f"snapshot {name} of session {key} already exists")
    tx.execute("INSERT INTO snapshots VALUES (?, ?, ?, ?)", row["id"], name, row["version"], tx.now)
    return Snapshot(name=name, version=row["version"], create_time=tx.now)


def snapshots(
    tx: Tx, key: SessionKey, page_size: int, page_token: str
) -> tuple[list[Snapshot], str]:
    # The token is the last name of the page before; no name is empty.
    rows = tx.execute(
        "SELECT * FROM snapshots WHERE session = ? AND name > ? ORDER BY name LIMIT ?",
        session_row(tx, key)["id"],
        page_token,
        page_size + 1,
    ).fetchall()
    page = [_to_snapshot(row) for row in rows[:page_size]]
    return page, page[-1].name if len(rows) > page_size else ""


def delete_snapshot(tx: Tx, key: SessionKey, name: str) -> None:
    session = session_row(tx, key)["id"]
    gone = tx.execute("DELETE FROM snapshots WHERE session = ? AND name = ?", session, name)
    if not gone.rowcount:
        raise SnapshotNotFoundError(f"snapshot {name} of session {key} does not exist")


def _to_snapshot(row: sqlite3.Row) -> Snapshot:
    return Snapshot(name=row["name"], version=row["version"], create_time=row["create_time"])
