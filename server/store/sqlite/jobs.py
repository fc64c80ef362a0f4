"""Jobs: work that outlives a process, and what it has made so far. Contracts are in `base`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from server.store.errors import AlreadyExistsError, NotFoundError
from server.store.sqlite.leases import require_lease
from server.store.sqlite.reading import read_refs
from server.store.sqlite.rows import Tx, drop_unreferenced, job_of, put_blobs, session_row
from server.store.values import Job, Lease, SessionKey


def save_job(
    tx: Tx,
    lease: Lease,
    *,
    request: bytes,
    progress: bytes,
    put: Mapping[str, bytes],
    drop: Iterable[str],
) -> Job:
    row = session_row(tx, lease.key)
    require_lease(row, lease)
    session = row["id"]
    known = job_of(tx, session)
    if known and known.request != request:
        raise AlreadyExistsError(f"session {lease.key} already has another job")
    tx.execute(
        "INSERT INTO jobs VALUES (?, ?, ?, ?)"
        " ON CONFLICT (session) DO UPDATE SET progress = excluded.progress",
        session,
        request,
        progress,
        tx.now,
    )
    replaced = _blobs(tx, session)
    for name in drop:
        tx.execute("DELETE FROM job_blobs WHERE session = ? AND name = ?", session, name)
    put_blobs(tx, session, lease.key.user, put, "job_blobs")
    drop_unreferenced(tx, replaced)
    saved = job_of(tx, session)
    assert saved is not None
    return saved


def end_job(tx: Tx, lease: Lease) -> None:
    row = session_row(tx, lease.key)
    require_lease(row, lease)
    drop_unreferenced(tx, remove_job(tx, row["id"]))


def remove_job(tx: Tx, session: int) -> set[int]:
    """Delete the job; returns the blobs that lost a reference."""
    released = _blobs(tx, session)
    tx.execute("DELETE FROM jobs WHERE session = ?", session)
    return released


def read_job(tx: Tx, key: SessionKey) -> tuple[Job, dict[str, bytes]]:
    session = session_row(tx, key)["id"]
    job = job_of(tx, session)
    if job is None:
        raise NotFoundError(f"session {key} has no job")
    refs = tx.execute("SELECT name, blob FROM job_blobs WHERE session = ? ORDER BY name", session)
    return job, read_refs(tx, key, {row["name"]: row["blob"] for row in refs})


def jobs(tx: Tx, limit: int) -> list[SessionKey]:
    rows = tx.execute(
        "SELECT user, name FROM jobs JOIN sessions ON sessions.id = session"
        " ORDER BY jobs.create_time, session LIMIT ?",
        limit,
    )
    return [SessionKey(*row) for row in rows]


def _blobs(tx: Tx, session: int) -> set[int]:
    rows = tx.execute("SELECT blob FROM job_blobs WHERE session = ?", session)
    return {blob for (blob,) in rows}
