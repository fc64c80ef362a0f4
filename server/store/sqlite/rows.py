"""Between rows and values: one transaction, the head of a session, its blobs."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from server.store.errors import NotFoundError, VersionNotFoundError
from server.store.values import BlobRef, Head, Job, SessionKey

# A union, so that each blob is there once.
_BLOBS_OF = (
    "SELECT blob FROM head_blobs WHERE session = ?"
    " UNION SELECT blob FROM version_blobs WHERE session = ?"
    " UNION SELECT blob FROM job_blobs WHERE session = ?"
)


@dataclass(frozen=True, slots=True)
class Tx:
    """A transaction that has begun. Whoever made it commits or rolls back."""

    connection: sqlite3.Connection
    now: float
    """Read once the transaction held its lock, so that no wait makes it old."""

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        return self.connection.execute(sql, parameters)

    def one(self, sql: str, *parameters: Any) -> sqlite3.Row | None:
        row: sqlite3.Row | None = self.connection.execute(sql, parameters).fetchone()
        return row

    def value(self, sql: str, *parameters: Any) -> Any:
        """First column of the only row of a query that always has one."""
        return self.connection.execute(sql, parameters).fetchone()[0]


def session_row(tx: Tx, key: SessionKey) -> sqlite3.Row:
    row = tx.one("SELECT * FROM sessions WHERE user = ? AND name = ?", key.user, key.session)
    if row is None:
        raise NotFoundError(f"session {key} does not exist")
    return row


def require_version(tx: Tx, key: SessionKey, session: int, version: int) -> sqlite3.Row:
    row = tx.one("SELECT * FROM versions WHERE session = ? AND version = ?", session, version)
    if row is None:
        raise VersionNotFoundError(f"version {version} of session {key} does not exist")
    return row


def to_head(tx: Tx, row: sqlite3.Row) -> Head:
    return Head(
        key=SessionKey(row["user"], row["name"]),
        incarnation=row["id"],
        revision=row["revision"],
        version=row["version"],
        parent_version=row["parent_version"],
        log_seq=row["log_seq"],
        fingerprint=row["fingerprint"],
        policy=row["policy"],
        display_name=row["display_name"],
        blobs=_refs(
            tx,
            "SELECT name, digest, size FROM head_blobs JOIN blobs ON blobs.id = blob"
            " WHERE session = ? ORDER BY name",
            row["id"],
        ),
        summary=row["summary"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        stored_bytes=row["log_bytes"] + _blob_bytes(tx, row["id"]),
        job=job_of(tx, row["id"]),
    )


def job_of(tx: Tx, session: int) -> Job | None:
    row = tx.one("SELECT request, progress, create_time FROM jobs WHERE session = ?", session)
    return Job(**row) if row else None


def version_refs(tx: Tx, session: int, version: int) -> dict[str, BlobRef]:
    return _refs(
        tx,
        "SELECT name, digest, size FROM version_blobs JOIN blobs ON blobs.id = blob"
        " WHERE session = ? AND version = ? ORDER BY name",
        session,
        version,
    )


def _refs(tx: Tx, sql: str, *parameters: Any) -> dict[str, BlobRef]:
    return {
        row["name"]: BlobRef(row["digest"], row["size"]) for row in tx.execute(sql, *parameters)
    }


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def put_blobs(
    tx: Tx, session: int, user: str, blobs: Mapping[str, bytes], table: str = "head_blobs"
) -> None:
    """Make the head (or the job, in `job_blobs`) refer to these; bytes that the user has stored
    already are shared."""
    for name, data in blobs.items():
        digest = digest_of(data)
        known = tx.one("SELECT id FROM blobs WHERE user = ? AND digest = ?", user, digest)
        held = tx.one(f"SELECT blob FROM {table} WHERE session = ? AND name = ?", session, name)
        if known is None and held is not None and _references(tx, held["blob"]) == 1:
            # Nobody else knows the blob that goes, so its row and all that leads there can stay,
            # and most turns change three pages for their state instead of eight.
            tx.execute(
                "UPDATE blobs SET digest = ?, size = ?, data = ? WHERE id = ?",
                digest,
                len(data),
                data,
                held["blob"],
            )
            continue
        blob = (
            known["id"]
            if known
            else tx.execute(
                "INSERT INTO blobs (user, digest, size, data) VALUES (?, ?, ?, ?)",
                user,
                digest,
                len(data),
                data,
            ).lastrowid
        )
        if held is None or held["blob"] != blob:
            tx.execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?)", session, name, blob)


def _references(tx: Tx, blob: int) -> int:
    """Number of references of heads, versions and jobs to a blob."""
    count: int = tx.value(
        "SELECT (SELECT count(*) FROM head_blobs WHERE blob = ?1)"
        " + (SELECT count(*) FROM version_blobs WHERE blob = ?1)"
        " + (SELECT count(*) FROM job_blobs WHERE blob = ?1)",
        blob,
    )
    return count


def blobs_of(tx: Tx, session: int) -> set[int]:
    """Every blob that the head, a version or the job of a session refers to."""
    return {row[0] for row in tx.execute(_BLOBS_OF, session, session, session)}


def _blob_bytes(tx: Tx, session: int) -> int:
    query = f"SELECT coalesce(sum(size), 0) FROM blobs WHERE id IN ({_BLOBS_OF})"
    size: int = tx.value(query, session, session, session)
    return size


def drop_unreferenced(tx: Tx, candidates: Iterable[int]) -> None:
    """Delete those of these blobs that nothing refers to any more. References are
    looked up, not counted: a count that is never kept cannot be wrong."""
    tx.connection.executemany(
        "DELETE FROM blobs WHERE id = ?"
        " AND NOT EXISTS (SELECT 1 FROM head_blobs WHERE blob = blobs.id)"
        " AND NOT EXISTS (SELECT 1 FROM version_blobs WHERE blob = blobs.id)"
        " AND NOT EXISTS (SELECT 1 FROM job_blobs WHERE blob = blobs.id)",
        [(blob,) for blob in candidates],
    )
