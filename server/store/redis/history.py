"""Changes of a session: commit, rollback, fork, and the versions it keeps.
Contracts are in `base`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from server.store.errors import AlreadyExistsError, StaleRevisionError, VersionNotFoundError
from server.store.redis.jobs import forget_job
from server.store.redis.leases import require_lease
from server.store.redis.record import SessionRecord, State
from server.store.redis.replies import drop_expired, keep_reply
from server.store.redis.transaction import Draft, Transactions
from server.store.values import BlobRef, Commit, Head, Lease, Record, SessionKey


def commit(draft: Draft, lease: Lease, change: Commit, put: Mapping[str, BlobRef]) -> Head:
    record = draft.require()
    if _is_last_change(record, change.nonce, change.expected_revision):
        return record.head()
    _require_current(draft, lease, change.expected_revision)
    state = record.state
    is_new_version = change.version == state.version + 1
    if not is_new_version and change.version != state.version:
        raise ValueError(f"version {change.version} does not follow version {state.version}")
    live = drop_expired(draft)
    if change.reply is not None:
        if live is not None:
            raise AlreadyExistsError(
                f"request {change.reply.request_id!r} of session {lease.key} was already answered"
            )
        keep_reply(draft, change.reply)
    kept = {name: ref for name, ref in state.blobs.items() if name not in change.drop_blobs}
    parent = state.parent_version
    if is_new_version:
        parent = state.version if change.parent_version is None else change.parent_version
    record.state = replace(
        state,
        version=change.version,
        parent_version=parent,
        summary=change.summary,
        fingerprint=state.fingerprint if change.fingerprint is None else change.fingerprint,
        policy=state.policy if change.policy is None else change.policy,
        blobs=kept | dict(put),
    )
    if change.display_name is not None:
        record.display_name = change.display_name
    _append(draft, record, change.records)
    if is_new_version:
        record.keep_version(draft.now)
    if change.ends_job:
        forget_job(record)
    _advance(draft, record, change.nonce)
    return record.head()


def rollback(
    draft: Draft,
    lease: Lease,
    *,
    expected_revision: int,
    nonce: str,
    to_version: int,
    record: Record,
    summary: bytes | None,
) -> Head:
    session = draft.require()
    if _is_last_change(session, nonce, expected_revision):
        return session.head()
    _require_current(draft, lease, expected_revision)
    target, present = state_at(session, to_version), session.state
    session.state = replace(
        target,
        version=present.version + 1,
        parent_version=to_version,
        log_seq=present.log_seq,
        log_bytes=present.log_bytes,
        summary=target.summary if summary is None else summary,
    )
    _append(draft, session, [record])
    session.keep_version(draft.now)
    _advance(draft, session, nonce)
    return session.head()


async def fork(
    draft: Draft,
    transactions: Transactions,
    source: SessionKey,
    version: int | None,
    summary: bytes | None,
) -> Head:
    keys, target = draft.keys, draft.key
    origin = await transactions.read(source)
    record = origin.require()
    state = record.state if version is None else state_at(record, version)
    if draft.record is not None:
        raise AlreadyExistsError(f"session {target} already exists")
    if summary is not None:
        state = replace(state, summary=summary)
    made = SessionRecord(
        key=target,
        incarnation=await transactions.connection.number(),
        display_name=record.display_name,
        create_time=draft.now,
        update_time=draft.now,
        state=state,
    )
    made.keep_version(draft.now)
    draft.record = made
    # The source's blobs and log must still be there when they are taken over.
    draft.checks.append((origin.stamp, ("HGET", keys.head(source.session), "stamp")))
    if state.log_seq:
        log = keys.log(target.session)
        draft.commands += [
            ("COPY", keys.log(source.session), log),
            ("LTRIM", log, 0, state.log_seq - 1),
        ]
    return made.head()


def collect(draft: Draft, keep_recent: int) -> int:
    record = draft.require()
    spared = {
        *sorted(record.versions)[-keep_recent:],
        record.state.parent_version,
        *(snapshot.version for snapshot in record.snapshots.values()),
    }
    doomed = record.versions.keys() - spared
    for version in doomed:
        del record.versions[version]
    return len(doomed)


def state_at(record: SessionRecord, version: int) -> State:
    """A kept version. Raises VersionNotFoundError."""
    if version not in record.versions:
        raise VersionNotFoundError(f"version {version} of session {record.key} does not exist")
    return record.versions[version][0]


def _is_last_change(record: SessionRecord, nonce: str, expected_revision: int) -> bool:
    return record.nonce == nonce and record.revision == expected_revision + 1


def _require_current(draft: Draft, lease: Lease, expected_revision: int) -> None:
    record = require_lease(draft, lease)
    if record.revision != expected_revision:
        raise StaleRevisionError(lease.key, str(expected_revision), str(record.revision))


def _append(draft: Draft, record: SessionRecord, records: Sequence[Record]) -> None:
    draft.records += records
    record.state = replace(
        record.state,
        log_seq=record.state.log_seq + len(records),
        log_bytes=record.state.log_bytes + sum(len(each.payload) for each in records),
    )


def _advance(draft: Draft, record: SessionRecord, nonce: str) -> None:
    record.revision += 1
    record.nonce = nonce
    record.update_time = draft.now
