"""Leases: who may commit to a session. Contracts are in `base`."""

from __future__ import annotations

import sqlite3

from server.store.errors import LeaseHeldError, LeaseLostError
from server.store.leases import LeaseWatch
from server.store.sqlite.rows import Tx, session_row
from server.store.values import Lease, SessionKey


def acquire(
    tx: Tx, key: SessionKey, owner: str, ttl_seconds: float, *, watch: LeaseWatch, ended_owner: str
) -> Lease:
    row = session_row(tx, key)
    holder = row["lease_owner"]
    if holder not in (None, owner, ended_owner):
        left = watch.remaining_seconds(key, row["lease_fence"], row["lease_expires"], tx.now)
        if left > 0:
            raise LeaseHeldError(key, holder, left)
    tx.execute("UPDATE fence SET last = last + 1")
    lease = Lease(
        key=key,
        owner=owner,
        fence=tx.value("SELECT last FROM fence"),
        expires_at=tx.now + ttl_seconds,
    )
    tx.execute(
        "UPDATE sessions SET lease_owner = ?, lease_fence = ?, lease_expires = ? WHERE id = ?",
        owner,
        lease.fence,
        lease.expires_at,
        row["id"],
    )
    return lease


def renew(tx: Tx, lease: Lease, ttl_seconds: float) -> Lease:
    row = session_row(tx, lease.key)
    require_lease(row, lease)
    expires_at = tx.now + ttl_seconds
    tx.execute("UPDATE sessions SET lease_expires = ? WHERE id = ?", expires_at, row["id"])
    return Lease(key=lease.key, owner=lease.owner, fence=lease.fence, expires_at=expires_at)


def release(tx: Tx, lease: Lease) -> None:
    # The fence stays behind with no owner: it admits nobody, not even this lease.
    tx.execute(
        "UPDATE sessions SET lease_owner = NULL, lease_expires = 0"
        " WHERE user = ? AND name = ? AND lease_owner = ? AND lease_fence = ?",
        lease.key.user,
        lease.key.session,
        lease.owner,
        lease.fence,
    )


def require_lease(row: sqlite3.Row, lease: Lease) -> None:
    """The fence decides, not the clock: see the rules in `base`."""
    if (row["lease_owner"], row["lease_fence"]) != (lease.owner, lease.fence):
        raise LeaseLostError(lease)
