"""Sessions as a whole: making, finding and erasing them. How they change is in
`history`. Contracts are in `base`."""

from __future__ import annotations

from collections.abc import Mapping

from server.store.errors import (
    AlreadyExistsError,
    StaleRevisionError,
)
from server.store.sqlite.rows import (
    Tx,
    blobs_of,
    drop_unreferenced,
    put_blobs,
    session_row,
    to_head,
)
from server.store.values import Head, SessionKey

# How long a bucket is known that nobody draws from.
_BUCKET_SECONDS = 86_400


def create(
    tx: Tx,
    key: SessionKey,
    *,
    fingerprint: str,
    policy: str,
    display_name: str,
    blobs: Mapping[str, bytes],
    summary: bytes,
) -> Head:
    session = insert_session(
        tx,
        key,
        fingerprint=fingerprint,
        policy=policy,
        display_name=display_name,
        summary=summary,
        version=0,
        parent_version=None,
        log_seq=0,
    )
    put_blobs(tx, session, key.user, blobs)
    keep_version(tx, session)
    return head(tx, key)


def insert_session(
    tx: Tx,
    key: SessionKey,
    *,
    fingerprint: str,
    policy: str,
    display_name: str,
    summary: bytes,
    version: int,
    parent_version: int | None,
    log_seq: int,
) -> int:
    """A row at revision 1, still without blobs and versions; returns its id."""
    if tx.one("SELECT 1 FROM sessions WHERE user = ? AND name = ?", key.user, key.session):
        raise AlreadyExistsError(f"session {key} already exists")
    session = tx.execute(
        "INSERT INTO sessions (user, name, fingerprint, policy, display_name, revision, version,"
        " parent_version, log_seq, nonce, summary, create_time, update_time)"
        " VALUES (?, ?, ?, ?, ?, 1, ?, ?, ?, '', ?, ?, ?)",
        key.user,
        key.session,
        fingerprint,
        policy,
        display_name,
        version,
        parent_version,
        log_seq,
        summary,
        tx.now,
        tx.now,
    ).lastrowid
    assert session is not None
    return session


def keep_version(tx: Tx, session: int) -> None:
    """Keep the head as it is now as a version to go back to."""
    tx.execute(
        "INSERT INTO versions SELECT id, version, parent_version, log_seq, fingerprint, policy,"
        " summary, ? FROM sessions WHERE id = ?",
        tx.now,
        session,
    )
    tx.execute(
        "INSERT INTO version_blobs SELECT session, version, head_blobs.name, blob"
        " FROM head_blobs JOIN sessions ON sessions.id = session WHERE session = ?",
        session,
    )


def head(tx: Tx, key: SessionKey) -> Head:
    return to_head(tx, session_row(tx, key))


def list_sessions(tx: Tx, user: str, page_size: int, page_token: str) -> tuple[list[Head], str]:
    # The token is the last name of the page before; no name is empty.
    rows = tx.execute(
        "SELECT * FROM sessions WHERE user = ? AND name > ? ORDER BY name LIMIT ?",
        user,
        page_token,
        page_size + 1,
    ).fetchall()
    page = rows[:page_size]
    return [to_head(tx, row) for row in page], page[-1]["name"] if len(rows) > page_size else ""


def user_bytes(tx: Tx, user: str) -> int:
    size: int = tx.value(
        "SELECT (SELECT coalesce(sum(size), 0) FROM blobs WHERE user = ?)"
        " + (SELECT coalesce(sum(log_bytes), 0) FROM sessions WHERE user = ?)",
        user,
        user,
    )
    return size


def user_sessions(tx: Tx, user: str) -> int:
    count: int = tx.value("SELECT count(*) FROM sessions WHERE user = ?", user)
    return count


def fingerprints(tx: Tx, limit: int) -> dict[str, int]:
    rows = tx.execute(
        "SELECT fingerprint, count(*) AS count FROM (SELECT fingerprint FROM sessions LIMIT ?)"
        " GROUP BY fingerprint",
        limit,
    )
    return {row["fingerprint"]: row["count"] for row in rows}


def draw(tx: Tx, user: str, amount: float, capacity: float, per_second: float) -> float:
    row = tx.one("SELECT level, time FROM buckets WHERE user = ?", user)
    level = capacity
    if row is not None:
        # A clock that was set back refills nothing.
        level = min(capacity, row["level"] + max(0.0, tx.now - row["time"]) * per_second)
    left = level - amount
    tx.execute("DELETE FROM buckets WHERE time < ?", tx.now - _BUCKET_SECONDS)
    tx.execute("INSERT OR REPLACE INTO buckets VALUES (?, ?, ?)", user, left, tx.now)
    return left


def delete(tx: Tx, key: SessionKey, etag: str | None) -> None:
    row = session_row(tx, key)
    if etag is not None and etag != (actual := to_head(tx, row).etag):
        raise StaleRevisionError(key, etag, actual)
    blobs = blobs_of(tx, row["id"])
    tx.execute("DELETE FROM sessions WHERE id = ?", row["id"])
    drop_unreferenced(tx, blobs)


def delete_user(tx: Tx, user: str) -> int:
    count = tx.execute("DELETE FROM sessions WHERE user = ?", user).rowcount
    # Blobs are never shared between users, so these are all unreferenced by now.
    tx.execute("DELETE FROM blobs WHERE user = ?", user)
    return count
