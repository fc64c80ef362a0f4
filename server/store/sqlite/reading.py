"""Reading blobs, log and replies. Contracts are in `base`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from server.store.errors import CorruptBlobError, NotFoundError
from server.store.sqlite.rows import Tx, digest_of, require_version, session_row
from server.store.values import LogRecord, SessionKey, StoredReply


def read_blobs(
    tx: Tx, key: SessionKey, names: Sequence[str] | None, version: int | None
) -> dict[str, bytes]:
    session = session_row(tx, key)["id"]
    if version is None:
        refs = tx.execute(
            "SELECT name, blob FROM head_blobs WHERE session = ? ORDER BY name", session
        )
    else:
        require_version(tx, key, session, version)
        refs = tx.execute(
            "SELECT name, blob FROM version_blobs WHERE session = ? AND version = ? ORDER BY name",
            session,
            version,
        )
    blobs: dict[str, int] = {row["name"]: row["blob"] for row in refs}
    wanted = list(blobs) if names is None else names
    if missing := [name for name in wanted if name not in blobs]:
        raise NotFoundError(f"session {key} has no blobs named {missing}")
    return read_refs(tx, key, {name: blobs[name] for name in wanted})


def read_refs(tx: Tx, key: SessionKey, refs: Mapping[str, int]) -> dict[str, bytes]:
    """Bytes of blobs by their ids, checked against size and digest."""
    return {name: _read_blob(tx, key, name, blob) for name, blob in refs.items()}


def _read_blob(tx: Tx, key: SessionKey, name: str, blob: int) -> bytes:
    row = tx.one("SELECT digest, size, data FROM blobs WHERE id = ?", blob)
    if row is None:
        raise CorruptBlobError(key, name, "it is missing")
    data: bytes = row["data"]
    if len(data) != row["size"]:
        raise CorruptBlobError(key, name, f"it has {len(data)} bytes instead of {row['size']}")
    if digest_of(data) != row["digest"]:
        raise CorruptBlobError(key, name, "its digest differs")
    return data


def read_log(tx: Tx, key: SessionKey, after_seq: int, limit: int) -> list[LogRecord]:
    session = session_row(tx, key)["id"]
    rows = tx.execute(
        "SELECT seq, kind, payload FROM log WHERE session = ? AND seq > ? ORDER BY seq LIMIT ?",
        session,
        after_seq,
        limit,
    )
    return [LogRecord(*row) for row in rows]


def find_reply(tx: Tx, key: SessionKey, request_id: str) -> StoredReply | None:
    session = session_row(tx, key)["id"]
    row = tx.one(
        "SELECT request_id, body_digest, payload, expires_at FROM replies"
        " WHERE session = ? AND request_id = ? AND expires_at > ?",
        session,
        request_id,
        tx.now,
    )
    return StoredReply(**row) if row else None
