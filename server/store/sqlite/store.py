"""SQLite store: each call is one transaction of `database`, and what it does is in
the modules beside this one.

Many processes may open one file. A process that is stopped in the middle of a
write holds the others up: they wait `busy_seconds`, then get
StoreUnavailableError.

Erasing overwrites rows and empties the write-ahead log, also when the disk is full: a
small file beside the database, NAME-reserve, is kept for that. It does not reach
backups, snapshots of the file system, or blocks that a device has remapped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from server.store import arguments
from server.store.base import (
    Commit,
    Head,
    Job,
    Lease,
    LogRecord,
    Record,
    SessionKey,
    SessionStore,
    Snapshot,
    StoredReply,
    VersionInfo,
)
from server.store.leases import check_lease_request
from server.store.sqlite import check, history, jobs, leases, reading, sessions, snapshots
from server.store.sqlite.database import Database
from server.store.sqlite.schema import SCHEMA_VERSION


class SQLiteStore(Database, SessionStore):
    """Sessions in the file at `path`, or in memory with ":memory:"."""

    # Sessions

    async def create(
        self,
        key: SessionKey,
        *,
        fingerprint: str,
        policy: str,
        display_name: str = "",
        blobs: Mapping[str, bytes],
        summary: bytes,
    ) -> Head:
        return await self._write(
            sessions.create,
            key,
            fingerprint=fingerprint,
            policy=policy,
            display_name=display_name,
            blobs=blobs,
            summary=summary,
        )

    async def head(self, key: SessionKey) -> Head:
        return await self._read(sessions.head, key)

    async def list_sessions(
        self, user: str, *, page_size: int = 50, page_token: str = ""
    ) -> tuple[list[Head], str]:
        arguments.check_page_size(page_size)
        return await self._read(sessions.list_sessions, user, page_size, page_token)

    async def delete(self, key: SessionKey, *, etag: str | None = None) -> None:
        await self._erase(sessions.delete, key, etag)

    async def delete_user(self, user: str) -> int:
        return await self._erase(sessions.delete_user, user)

    async def user_bytes(self, user: str) -> int:
        return await self._read(sessions.user_bytes, user)

    async def user_sessions(self, user: str) -> int:
        return await self._read(sessions.user_sessions, user)

    async def fingerprints(self, *, limit: int = 10_000) -> dict[str, int]:
        arguments.check_limit(limit)
        return await self._read(sessions.fingerprints, limit)

    async def draw(self, user: str, amount: float, *, capacity: float, per_second: float) -> float:
        return await self._write(sessions.draw, user, amount, capacity, per_second)

    # Leases

    async def acquire(
        self, key: SessionKey, owner: str, ttl_seconds: float, *, ended_owner: str = ""
    ) -> Lease:
        check_lease_request(owner, ttl_seconds)
        return await self._write(
            leases.acquire, key, owner, ttl_seconds, watch=self._leases, ended_owner=ended_owner
        )

    async def renew(self, lease: Lease, ttl_seconds: float) -> Lease:
        check_lease_request(lease.owner, ttl_seconds)
        return await self._write(leases.renew, lease, ttl_seconds)

    async def release(self, lease: Lease) -> None:
        await self._write(leases.release, lease)

    # Changes

    async def commit(self, lease: Lease, commit: Commit) -> Head:
        return await self._write(history.commit, lease, commit)

    async def rollback(
        self,
        lease: Lease,
        *,
        expected_revision: int,
        nonce: str,
        to_version: int,
        record: Record,
        summary: bytes | None = None,
    ) -> Head:
        arguments.check_rollback(nonce)
        return await self._write(
            history.rollback,
            lease,
            expected_revision=expected_revision,
            nonce=nonce,
            to_version=to_version,
            record=record,
            summary=summary,
        )

    # Reading

    async def read_blobs(
        self, key: SessionKey, names: Sequence[str] | None = None, *, version: int | None = None
    ) -> dict[str, bytes]:
        return await self._read(reading.read_blobs, key, names, version)

    async def read_log(
        self, key: SessionKey, *, after_seq: int = 0, limit: int = 1000
    ) -> list[LogRecord]:
        arguments.check_limit(limit)
        return await self._read(reading.read_log, key, after_seq, limit)

    async def find_reply(self, key: SessionKey, request_id: str) -> StoredReply | None:
        return await self._read(reading.find_reply, key, request_id)

    # Versions

    async def versions(self, key: SessionKey) -> list[VersionInfo]:
        return await self._read(history.versions, key)

    async def fork(
        self,
        source: SessionKey,
        target: SessionKey,
        *,
        version: int | None = None,
        summary: bytes | None = None,
    ) -> Head:
        arguments.check_fork(source, target)
        return await self._write(history.fork, source, target, version, summary)

    async def collect(self, key: SessionKey, keep_recent: int) -> int:
        arguments.check_keep_recent(keep_recent)
        return await self._write(history.collect, key, keep_recent)

    # Snapshots

    async def snapshot(self, key: SessionKey, name: str) -> Snapshot:
        arguments.check_snapshot(name)
        return await self._write(snapshots.snapshot, key, name)

    async def snapshots(
        self, key: SessionKey, *, page_size: int = 50, page_token: str = ""
    ) -> tuple[list[Snapshot], str]:
        arguments.check_page_size(page_size)
        return await self._read(snapshots.snapshots, key, page_size, page_token)

    async def delete_snapshot(self, key: SessionKey, name: str) -> None:
        await self._write(snapshots.delete_snapshot, key, name)

    # Jobs

    async def save_job(
        self,
        lease: Lease,
        *,
        request: bytes,
        progress: bytes,
        put_blobs: Mapping[str, bytes] = MappingProxyType({}),
        drop_blobs: frozenset[str] = frozenset(),
    ) -> Job:
        arguments.check_put_and_drop(put_blobs, drop_blobs)
        return await self._write(
            jobs.save_job,
            lease,
            request=request,
            progress=progress,
            put=put_blobs,
            drop=drop_blobs,
        )

    async def end_job(self, lease: Lease) -> None:
        await self._write(jobs.end_job, lease)

    async def read_job(self, key: SessionKey) -> tuple[Job, dict[str, bytes]]:
        return await self._read(jobs.read_job, key)

    async def jobs(self, *, limit: int = 1000) -> list[SessionKey]:
        arguments.check_limit(limit)
        return await self._read(jobs.jobs, limit)

    # Upkeep

    async def check_writable(self, room_bytes: int = 0) -> None:
        await self._check_writable(room_bytes)

    @property
    def schema_version(self) -> int:
        return SCHEMA_VERSION

    async def check_integrity(self) -> list[str]:
        return await self._read(check.broken_laws)
