"""Changes of a session: commit, rollback, fork, and the versions it keeps.
Contracts are in `base`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from server.store.errors import AlreadyExistsError, StaleRevisionError
from server.store.sqlite.jobs import remove_job
from server.store.sqlite.leases import require_lease
from server.store.sqlite.rows import (
    Tx,
    drop_unreferenced,
    put_blobs,
    require_version,
    session_row,
    to_head,
    version_refs,
)
from server.store.sqlite.sessions import head, insert_session, keep_version
from server.store.values import Commit, Head, Lease, Record, SessionKey, StoredReply, VersionInfo


def commit(tx: Tx, lease: Lease, change: Commit) -> Head:
    row = session_row(tx, lease.key)
    if _is_last_change(row, change.nonce, change.expected_revision):
        return to_head(tx, row)
    _require_current(row, lease, change.expected_revision)
    session = row["id"]
    is_new_version = change.version == row["version"] + 1
    if not is_new_version and change.version != row["version"]:
        raise ValueError(f"version {change.version} does not follow version {row['version']}")

    replaced = _blobs_named(tx, session, {*change.put_blobs, *change.drop_blobs})
    for name in change.drop_blobs:
        tx.execute("DELETE FROM head_blobs WHERE session = ? AND name = ?", session, name)
    put_blobs(tx, session, lease.key.user, change.put_blobs)
    log_seq = _append(tx, session, row["log_seq"], change.records)
    parent = row["parent_version"]
    if is_new_version:
        parent = row["version"] if change.parent_version is None else change.parent_version
    tx.execute(
        "UPDATE sessions SET revision = revision + 1, version = ?, parent_version = ?,"
        " log_seq = ?, nonce = ?, summary = ?, update_time = ?,"
        " fingerprint = coalesce(?, fingerprint), policy = coalesce(?, policy),"
        " display_name = coalesce(?, display_name) WHERE id = ?",
        change.version,
        parent,
        log_seq,
        change.nonce,
        change.summary,
        tx.now,
        change.fingerprint,
        change.policy,
        change.display_name,
        session,
    )
    if is_new_version:
        keep_version(tx, session)
    if change.ends_job:
        replaced |= remove_job(tx, session)
    drop_unreferenced(tx, replaced)
    # Expired replies of every session go here, so that none has to be swept for.
    tx.execute("DELETE FROM replies WHERE expires_at <= ?", tx.now)
    if change.reply is not None:
        _store_reply(tx, lease.key, session, change.reply)
    return head(tx, lease.key)


def rollback(
    tx: Tx,
    lease: Lease,
    *,
    expected_revision: int,
    nonce: str,
    to_version: int,
    record: Record,
    summary: bytes | None,
) -> Head:
    row = session_row(tx, lease.key)
    if _is_last_change(row, nonce, expected_revision):
        return to_head(tx, row)
    _require_current(row, lease, expected_revision)
    session = row["id"]
    target = require_version(tx, lease.key, session, to_version)

    replaced = _blobs_named(tx, session, None)
    tx.execute("DELETE FROM head_blobs WHERE session = ?", session)
    tx.execute(
        "INSERT INTO head_blobs SELECT session, name, blob FROM version_blobs"
        " WHERE session = ? AND version = ?",
        session,
        to_version,
    )
    tx.execute(
        "UPDATE sessions SET revision = revision + 1, version = version + 1, parent_version = ?,"
        " log_seq = ?, nonce = ?, summary = ?, update_time = ?, fingerprint = ?, policy = ?"
        " WHERE id = ?",
        to_version,
        _append(tx, session, row["log_seq"], [record]),
        nonce,
        target["summary"] if summary is None else summary,
        tx.now,
        target["fingerprint"],
        target["policy"],
        session,
    )
    keep_version(tx, session)
    drop_unreferenced(tx, replaced)
    return head(tx, lease.key)


def fork(
    tx: Tx, source: SessionKey, target: SessionKey, version: int | None, summary: bytes | None
) -> Head:
    row = session_row(tx, source)
    # Either row has the columns that make up the state to start from.
    origin = row if version is None else require_version(tx, source, row["id"], version)
    session = insert_session(
        tx,
        target,
        fingerprint=origin["fingerprint"],
        policy=origin["policy"],
        display_name=row["display_name"],
        summary=origin["summary"] if summary is None else summary,
        version=origin["version"],
        parent_version=origin["parent_version"],
        log_seq=origin["log_seq"],
    )
    if version is None:
        tx.execute(
            "INSERT INTO head_blobs SELECT ?, name, blob FROM head_blobs WHERE session = ?",
            session,
            row["id"],
        )
    else:
        tx.execute(
            "INSERT INTO head_blobs SELECT ?, name, blob FROM version_blobs"
            " WHERE session = ? AND version = ?",
            session,
            row["id"],
            version,
        )
    tx.execute(
        "INSERT INTO log SELECT ?, seq, kind, payload FROM log WHERE session = ? AND seq <= ?",
        session,
        row["id"],
        origin["log_seq"],
    )
    tx.execute(
        "UPDATE sessions SET log_bytes ="
        " (SELECT coalesce(sum(length(payload)), 0) FROM log WHERE session = ?) WHERE id = ?",
        session,
        session,
    )
    keep_version(tx, session)
    return head(tx, target)


def versions(tx: Tx, key: SessionKey) -> list[VersionInfo]:
    session = session_row(tx, key)["id"]
    return [
        VersionInfo(
            version=row["version"],
            parent_version=row["parent_version"],
            log_seq=row["log_seq"],
            fingerprint=row["fingerprint"],
            policy=row["policy"],
            blobs=version_refs(tx, session, row["version"]),
            summary=row["summary"],
            create_time=row["create_time"],
        )
        for row in tx.execute(
            "SELECT * FROM versions WHERE session = ? ORDER BY version", session
        ).fetchall()
    ]


def collect(tx: Tx, key: SessionKey, keep_recent: int) -> int:
    row = session_row(tx, key)
    session = row["id"]
    kept: list[int] = [
        version
        for (version,) in tx.execute(
            "SELECT version FROM versions WHERE session = ? ORDER BY version", session
        )
    ]
    named = tx.execute("SELECT version FROM snapshots WHERE session = ?", session)
    spared = {row["parent_version"], *(version for (version,) in named)}
    doomed = set(kept[:-keep_recent]) - spared
    candidates: set[int] = set()
    for version in doomed:
        candidates.update(
            blob
            for (blob,) in tx.execute(
                "SELECT blob FROM version_blobs WHERE session = ? AND version = ?",
                session,
                version,
            )
        )
        tx.execute("DELETE FROM versions WHERE session = ? AND version = ?", session, version)
    drop_unreferenced(tx, candidates)
    return len(doomed)


def _is_last_change(row: sqlite3.Row, nonce: str, expected_revision: int) -> bool:
    return bool(row["nonce"] == nonce and row["revision"] == expected_revision + 1)


def _require_current(row: sqlite3.Row, lease: Lease, expected_revision: int) -> None:
    require_lease(row, lease)
    if row["revision"] != expected_revision:
        raise StaleRevisionError(lease.key, str(expected_revision), str(row["revision"]))


def _append(tx: Tx, session: int, log_seq: int, records: Sequence[Record]) -> int:
    """Put records behind `log_seq`; returns the last number given."""
    tx.connection.executemany(
        "INSERT INTO log VALUES (?, ?, ?, ?)",
        [
            (session, seq, record.kind, record.payload)
            for seq, record in enumerate(records, start=log_seq + 1)
        ],
    )
    tx.execute(
        "UPDATE sessions SET log_bytes = log_bytes + ? WHERE id = ?",
        sum(len(record.payload) for record in records),
        session,
    )
    return log_seq + len(records)


def _blobs_named(tx: Tx, session: int, names: Iterable[str] | None) -> set[int]:
    """Blobs that the head has under these names, or under any: they may be about to
    lose a reference."""
    wanted = None if names is None else set(names)
    return {
        row["blob"]
        for row in tx.execute("SELECT name, blob FROM head_blobs WHERE session = ?", session)
        if wanted is None or row["name"] in wanted
    }


def _store_reply(tx: Tx, key: SessionKey, session: int, reply: StoredReply) -> None:
    # Expired ones are gone by now, so what is there is live.
    if tx.one(
        "SELECT 1 FROM replies WHERE session = ? AND request_id = ?", session, reply.request_id
    ):
        raise AlreadyExistsError(
            f"request {reply.request_id!r} of session {key} was already answered"
        )
    tx.execute(
        "INSERT INTO replies VALUES (?, ?, ?, ?, ?)",
        session,
        reply.request_id,
        reply.body_digest,
        reply.payload,
        reply.expires_at,
    )
