"""Jobs: work that outlives a process, and what it has made so far. Contracts are in `base`.

The list of all jobs lies in another slot than any session, so it cannot be written together with
one. It is a hint: a job is put on it before it begins, and who reads it looks whether the job is
there.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import replace

from server.store.errors import AlreadyExistsError
from server.store.redis.connection import Connection
from server.store.redis.keys import JOBS
from server.store.redis.leases import require_lease
from server.store.redis.record import HeldJob, SessionRecord
from server.store.redis.transaction import Draft, Transactions
from server.store.values import BlobRef, Job, Lease, SessionKey

# A hint without its job belongs to one that ended, or that begins just now; so long it stays.
HINT_SECONDS = 600.0
HINTS_AT_ONCE = 16


async def save_job(
    draft: Draft,
    connection: Connection,
    lease: Lease,
    *,
    request: bytes,
    progress: bytes,
    put: Mapping[str, BlobRef],
    drop: Iterable[str],
) -> Job:
    record = require_lease(draft, lease)
    held = record.job
    if held is None:
        name = uuid.uuid4().hex
        job = Job(request=request, progress=progress, create_time=draft.now)
        held = HeldJob(name, job, {})
        await connection.call("ZADD", JOBS, repr(draft.now), _hint(draft.key, name))
    elif held.job.request != request:
        raise AlreadyExistsError(f"session {lease.key} already has another job")
    dropped = frozenset(drop)
    kept = {name: ref for name, ref in held.blobs.items() if name not in dropped}
    job = replace(held.job, progress=progress)
    record.job = HeldJob(held.name, job, kept | dict(put))
    return job


def end_job(draft: Draft, lease: Lease) -> None:
    forget_job(require_lease(draft, lease))


def forget_job(record: SessionRecord) -> None:
    record.job = None


async def jobs(transactions: Transactions, limit: int) -> list[SessionKey]:
    connection = transactions.connection
    hints = await connection.call("ZRANGE", JOBS, 0, -1, "WITHSCORES")
    named = [
        (json.loads(hint), hint, float(score))
        for hint, score in zip(hints[::2], hints[1::2], strict=True)
    ]
    found: list[SessionKey] = []
    stale: list[bytes] = []
    for at in range(0, len(named), HINTS_AT_ONCE):
        together = named[at : at + HINTS_AT_ONCE]
        keys = [SessionKey(user, session) for (user, session, _), _, _ in together]
        drafts = await asyncio.gather(*(transactions.read(key) for key in keys))
        for ((_, _, name), hint, score), draft in zip(together, drafts, strict=True):
            if draft.record and draft.record.job and draft.record.job.name == name:
                found.append(draft.key)
            elif draft.now - score > HINT_SECONDS:
                stale.append(hint)
        if len(found) >= limit:
            break
    if stale:
        await connection.call("ZREM", JOBS, *stale)
    return found[:limit]


def _hint(key: SessionKey, name: str) -> str:
    return json.dumps([key.user, key.session, name])
