"""Versions of a session: fork, snapshot, roll back, reset, freeze, compare.

Knows the order in which these become durable. Sessions are loaded and locked in sessions.py and
committed in commits.py.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence

from hope_runtime.errors import InvalidRequestError
from hope_runtime.session.log import Record, RecordKind
from hope_runtime.session.memory import SessionMemory
from server.app.cancellation import complete
from server.app.residency import Resident
from server.app.session_log import log_pages, read_log
from server.app.sessions import Sessions
from server.app.version_diff import Taught, Version, between
from server.store.base import Head, SessionKey, Snapshot, StaleRevisionError, VersionInfo
from server.store.base import Record as StoredRecord


async def fork(
    sessions: Sessions, source: SessionKey, target: SessionKey, version: int | None
) -> Head:
    """Copy a session's present state, or an earlier one, under another name."""
    async with sessions.exclusive(source):
        if version is not None:
            await _kept_version(sessions, source, version, field="version")
        await sessions.quotas.check(target, new=True)
        return await sessions.store.fork(source, target, version=version)


async def snapshot(sessions: Sessions, key: SessionKey, name: str) -> Snapshot:
    """Name the present version, with everything learnt that was due."""
    async with sessions.exclusive(key):
        return await sessions.store.snapshot(key, name)


async def snapshots(
    sessions: Sessions, key: SessionKey, *, page_size: int, page_token: str
) -> tuple[list[Snapshot], str]:
    """A page of a session's snapshots, and the token of the next one, "" behind the last."""
    return await sessions.store.snapshots(key, page_size=page_size, page_token=page_token)


async def delete_snapshot(sessions: Sessions, key: SessionKey, name: str) -> None:
    """Delete a snapshot; its version may be dropped from then on."""
    await sessions.store.delete_snapshot(key, name)


async def rollback(
    sessions: Sessions, key: SessionKey, version: int | None, etag: str | None
) -> Head:
    """Return to an earlier version, by default the present one's parent."""
    async with sessions.exclusive(key) as resident:
        check_etag(resident, etag)
        target = version if version is not None else resident.head.parent_version
        if target is None:
            raise InvalidRequestError(
                "the session is at its first version, so there is no earlier version to return to",
                field="version",
            )
        await complete(_rollback(sessions, resident, target))
        sessions.metrics.rollbacks.inc()
        return resident.head


async def reset(
    sessions: Sessions, key: SessionKey, levels: Sequence[int], etag: str | None
) -> Head:
    """Return levels to the base model, all of them when none is named. The log records it, so that
    it can be rolled back and a fold gives the same memory."""
    async with sessions.exclusive(key) as resident:
        check_etag(resident, etag)
        known = range(len(resident.memory.levels))
        for level in levels:
            if level not in known:
                raise InvalidRequestError(
                    f"level {level} does not exist; the session has levels 0 to {len(known) - 1}",
                    field="levels",
                )
        chosen = tuple(sorted(set(levels))) or tuple(known)
        await sessions.commits.event(resident, Record(RecordKind.RESET, levels=chosen))
        return resident.head


async def set_frozen(sessions: Sessions, key: SessionKey, frozen: bool) -> None:
    """Stop the learning of all levels, or resume it. The log records it."""
    async with sessions.exclusive(key) as resident:
        if resident.memory.policy.recipe == "streamed":
            raise InvalidRequestError(
                "the session runs on a native model, whose memory updates while it reads and "
                "cannot be frozen",
                field="session",
            )
        kind = RecordKind.FREEZE if frozen else RecordKind.UNFREEZE
        levels = tuple(range(len(resident.memory.levels)))
        if any(level.guard.frozen != frozen for level in resident.memory.levels):
            await sessions.commits.event(resident, Record(kind, levels=levels))


async def rename(sessions: Sessions, key: SessionKey, name: str, etag: str | None) -> Head:
    """Change a session's display name."""
    async with sessions.exclusive(key) as resident:
        check_etag(resident, etag)
        await sessions.commits.rename(resident, name)
        return resident.head


async def changes(
    sessions: Sessions, key: SessionKey, before: int, after: int
) -> tuple[list[float], list[Taught]]:
    """Compare two kept versions: the relative norm of each level's change, and the text that only
    one of them learnt. Needs no lock: versions never change, and a log only grows.

    Raises InvalidRequestError for a version that is not kept, and for two whose policies have
    different levels, which cannot be compared."""
    versions = []
    for number, field in ((before, "from_version"), (after, "to_version")):
        info = await _kept_version(sessions, key, number, field=field)
        memory = sessions.decode(await sessions.store.read_blobs(key, version=number))
        versions.append(Version(memory, info.log_seq))
    first, second = (version.memory.levels for version in versions)
    if len(first) != len(second):
        raise InvalidRequestError(
            f"versions {before} and {after} have different levels because of a migration between "
            "them; choose two versions on the same side of it",
            field="to_version",
        )
    norms = await asyncio.to_thread(sessions.engine.change, *(each.memory for each in versions))
    log = await read_log(sessions, key)
    return norms, await asyncio.to_thread(between, log, *versions)


async def consolidations(
    sessions: Sessions, key: SessionKey, after_seq: int, size: int
) -> tuple[list[Record], int]:
    """Up to `size` records of consolidations after `after_seq` in the log, and where the next page
    begins, 0 at the end of the log. Needs no lock: a log only grows."""
    found: list[Record] = []
    async for page in log_pages(sessions, key, after_seq):
        for each in page:
            if each.kind == RecordKind.CONSOLIDATION:
                if len(found) == size:
                    return found, after_seq
                found.append(Record.decode(each.payload))
            after_seq = each.seq
    return found, 0


async def kept(sessions: Sessions, key: SessionKey) -> list[VersionInfo]:
    """The versions that a session can go back to, oldest first."""
    return await sessions.store.versions(key)


async def memory_at(
    sessions: Sessions, key: SessionKey, version: int, *, field: str
) -> SessionMemory:
    """The memory as it was when `version` was made; 0 is the base model. Needs no lock: versions
    never change. Raises InvalidRequestError naming `field` for a version that is not kept."""
    if version == 0:
        await sessions.head(key)  # there must be such a session
        return SessionMemory.fresh(sessions.fingerprint, sessions.policy("default"))
    await _kept_version(sessions, key, version, field=field)
    return sessions.decode(await sessions.store.read_blobs(key, version=version))


def check_etag(resident: Resident, etag: str | None) -> None:
    """Raise StaleRevisionError unless the session is unchanged since the caller read it."""
    head = resident.head
    if etag is not None and etag != head.etag:
        raise StaleRevisionError(head.key, etag, head.etag)


async def _rollback(sessions: Sessions, resident: Resident, target: int) -> None:
    key = resident.key
    version = await _kept_version(sessions, key, target, field="version")
    memory = sessions.decode(await sessions.store.read_blobs(key, version=target))
    record = Record(RecordKind.ROLLBACK, target_version=target, target_seq=version.log_seq)
    nonce = uuid.uuid4().hex
    summary = sessions.commits.summary(memory)
    resident.head = await sessions.commits.retried(
        lambda: sessions.store.rollback(
            resident.lease,
            expected_revision=resident.head.revision,
            nonce=nonce,
            to_version=target,
            record=StoredRecord(record.kind, record.encode()),
            summary=summary,
        )
    )
    resident.memory = memory
    await sessions.commits.collect(key)


async def _kept_version(
    sessions: Sessions, key: SessionKey, number: int, *, field: str
) -> VersionInfo:
    versions = {info.version: info for info in await sessions.store.versions(key)}
    if number not in versions:
        kept = ", ".join(str(version) for version in sorted(versions))
        raise InvalidRequestError(
            f"version {number} does not exist; available versions: {kept}", field=field
        )
    return versions[number]
