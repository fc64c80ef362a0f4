"""Reading blobs, log and replies. Contracts are in `base`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from server.store.errors import CorruptBlobError, NotFoundError
from server.store.redis.blobs import faults_of, fetch
from server.store.redis.history import state_at
from server.store.redis.keys import UserKeys
from server.store.redis.record import SessionRecord
from server.store.redis.replies import live
from server.store.redis.transaction import Transactions, log_record
from server.store.values import BlobRef, Job, LogRecord, SessionKey, StoredReply


async def read_blobs(
    transactions: Transactions, key: SessionKey, names: Sequence[str] | None, version: int | None
) -> dict[str, bytes]:
    def wanted(record: SessionRecord) -> dict[str, BlobRef]:
        state = record.state if version is None else state_at(record, version)
        blobs = dict(sorted(state.blobs.items()))
        if names is None:
            return blobs
        if missing := [name for name in names if name not in blobs]:
            raise NotFoundError(f"session {key} has no blobs named {missing}")
        return {name: blobs[name] for name in names}

    _, blobs = await _read_checked(transactions, key, wanted)
    return blobs


async def read_job(transactions: Transactions, key: SessionKey) -> tuple[Job, dict[str, bytes]]:
    def wanted(record: SessionRecord) -> dict[str, BlobRef]:
        if record.job is None:
            raise NotFoundError(f"session {key} has no job")
        return dict(sorted(record.job.blobs.items()))

    record, blobs = await _read_checked(transactions, key, wanted)
    assert record.job is not None
    return record.job.job, blobs


async def _read_checked(
    transactions: Transactions,
    key: SessionKey,
    wanted: Callable[[SessionRecord], Mapping[str, BlobRef]],
) -> tuple[SessionRecord, dict[str, bytes]]:
    """The record and bytes of the blobs that are wanted of it, checked."""
    while True:
        draft = await transactions.read(key)
        record = draft.require()
        refs = wanted(record)
        found = await fetch(transactions.connection, draft.keys, set(refs.values()))
        faults = await faults_of(found)
        blobs: dict[str, bytes] = {}
        for name, ref in refs.items():
            data, fault = found[ref], faults[ref]
            if data is None or fault is not None:
                break
            blobs[name] = data
        else:
            return record, blobs
        # A commit may have replaced the blob between the two readings.
        if (await transactions.read(key)).stamp == draft.stamp:
            raise CorruptBlobError(key, name, fault or "it is missing")


async def read_log(
    transactions: Transactions, key: SessionKey, after_seq: int, limit: int
) -> list[LogRecord]:
    command = ("LRANGE", UserKeys(key.user).log(key.session), after_seq, after_seq + limit - 1)
    draft = await transactions.read(key, command)
    draft.require()
    (entries,) = draft.replies
    return [log_record(seq, entry) for seq, entry in enumerate(entries, start=after_seq + 1)]


async def find_reply(
    transactions: Transactions, key: SessionKey, request_id: str
) -> StoredReply | None:
    command = ("HGET", UserKeys(key.user).replies(key.session), request_id)
    draft = await transactions.read(key, command)
    draft.require()
    return live(draft.replies[0], draft.now)
