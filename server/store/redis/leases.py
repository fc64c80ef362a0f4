"""Leases: who may commit to a session. Contracts are in `base`."""

from __future__ import annotations

from server.store.errors import LeaseHeldError, LeaseLostError
from server.store.leases import LeaseWatch
from server.store.redis.record import HeldLease, SessionRecord
from server.store.redis.transaction import Draft, Transactions
from server.store.values import Lease


async def acquire(
    draft: Draft,
    transactions: Transactions,
    owner: str,
    ttl_seconds: float,
    *,
    watch: LeaseWatch,
    ended_owner: str,
) -> Lease:
    record = draft.require()
    held = record.lease
    # What an earlier process of the store granted is void: see record.HeldLease.
    if held and held.epoch == draft.epoch and held.owner not in (owner, ended_owner):
        left = watch.remaining_seconds(draft.key, held.fence, held.expires_at, draft.now)
        if left > 0:
            raise LeaseHeldError(draft.key, held.owner, left)
    fence = await transactions.connection.number()
    record.lease = HeldLease(owner, fence, draft.now + ttl_seconds, draft.epoch)
    return _lease(draft, record.lease)


def renew(draft: Draft, lease: Lease, ttl_seconds: float) -> Lease:
    record = require_lease(draft, lease)
    record.lease = HeldLease(lease.owner, lease.fence, draft.now + ttl_seconds, draft.epoch)
    return _lease(draft, record.lease)


def release(draft: Draft, lease: Lease) -> None:
    # A later lease has a higher fence, so no trace of this one is needed.
    if draft.record is not None and _holds(draft, draft.record, lease):
        draft.record.lease = None


def require_lease(draft: Draft, lease: Lease) -> SessionRecord:
    """The fence decides, not the clock: see the rules in `base`."""
    record = draft.require()
    if not _holds(draft, record, lease):
        raise LeaseLostError(lease)
    return record


def _holds(draft: Draft, record: SessionRecord, lease: Lease) -> bool:
    held = record.lease
    return held is not None and (held.owner, held.fence, held.epoch) == (
        lease.owner,
        lease.fence,
        draft.epoch,
    )


def _lease(draft: Draft, held: HeldLease) -> Lease:
    return Lease(key=draft.key, owner=held.owner, fence=held.fence, expires_at=held.expires_at)
