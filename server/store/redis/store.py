"""Redis store: each call is one transaction of `transaction`, and what it does is in the modules
beside this one.

Many processes may use one server, from many machines; time is the server's. A call reads the
record, sends new blobs in pieces, and ends with one small script that compares and writes.

Erasing deletes keys. It does not reach replicas that are cut off, backups, or what the append-only
file still holds until the server writes it anew (BGREWRITEAOF).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
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
from server.store.leases import LeaseWatch, check_lease_request
from server.store.redis import check, history, jobs, leases, reading, replies, sessions, snapshots
from server.store.redis.blobs import addressed
from server.store.redis.connection import Connection
from server.store.redis.durability import Durability
from server.store.redis.keys import UserKeys
from server.store.redis.transaction import Transactions, at_once
from server.store.redis.upkeep import SCHEMA_VERSION, IdleSweeper, check_format


class RedisStore(SessionStore):
    """Sessions in the Redis or Valkey at `url`: redis://, rediss:// or unix://, with `password` if
    the address has none.

    `idle_seconds`: sessions that nobody changed for so long are erased; None keeps them."""

    def __init__(
        self,
        url: str,
        *,
        password: str | None = None,
        durability: Durability | None = None,
        idle_seconds: float | None = None,
        clock: Callable[[], float] | None = None,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._leases = LeaseWatch(timer)
        self._connection = Connection(url, password, durability or Durability(), clock)
        self._transactions = Transactions(self._connection)
        self._sweeper = IdleSweeper(self._transactions, idle_seconds)

    async def open(self) -> None:
        await self._connection.open()
        try:
            await check_format(self._connection)
        except BaseException:
            await self._connection.close()
            raise
        self._sweeper.start()

    async def close(self) -> None:
        await self._sweeper.stop()
        await self._connection.close()

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
        refs = await addressed(blobs)
        return await self._transactions.change(
            key,
            lambda draft: sessions.create(
                draft,
                self._transactions,
                fingerprint=fingerprint,
                policy=policy,
                display_name=display_name,
                blobs=refs,
                summary=summary,
            ),
            sent={refs[name]: blobs[name] for name in blobs},
        )

    async def head(self, key: SessionKey) -> Head:
        return (await self._transactions.read(key)).require().head()

    async def list_sessions(
        self, user: str, *, page_size: int = 50, page_token: str = ""
    ) -> tuple[list[Head], str]:
        arguments.check_page_size(page_size)
        return await sessions.list_sessions(self._transactions, user, page_size, page_token)

    async def delete(self, key: SessionKey, *, etag: str | None = None) -> None:
        operation = at_once(lambda draft: sessions.delete(draft, etag))
        await self._transactions.change(key, operation, when_full=True)

    async def delete_user(self, user: str) -> int:
        return await sessions.delete_user(self._transactions, user)

    async def user_bytes(self, user: str) -> int:
        return await sessions.user_bytes(self._transactions, user)

    async def user_sessions(self, user: str) -> int:
        return int(await self._connection.call("ZCARD", UserKeys(user).names))

    async def fingerprints(self, *, limit: int = 10_000) -> dict[str, int]:
        arguments.check_limit(limit)
        return await sessions.fingerprints(self._transactions, limit)

    async def draw(self, user: str, amount: float, *, capacity: float, per_second: float) -> float:
        return await self._connection.draw(UserKeys(user), amount, capacity, per_second)

    # Leases

    async def acquire(
        self, key: SessionKey, owner: str, ttl_seconds: float, *, ended_owner: str = ""
    ) -> Lease:
        check_lease_request(owner, ttl_seconds)
        return await self._transactions.change(
            key,
            lambda draft: leases.acquire(
                draft,
                self._transactions,
                owner,
                ttl_seconds,
                watch=self._leases,
                ended_owner=ended_owner,
            ),
            when_full=True,
        )

    async def renew(self, lease: Lease, ttl_seconds: float) -> Lease:
        check_lease_request(lease.owner, ttl_seconds)
        operation = at_once(lambda draft: leases.renew(draft, lease, ttl_seconds))
        return await self._transactions.change(lease.key, operation, when_full=True)

    async def release(self, lease: Lease) -> None:
        operation = at_once(lambda draft: leases.release(draft, lease))
        await self._transactions.change(lease.key, operation, when_full=True)

    # Changes

    async def commit(self, lease: Lease, commit: Commit) -> Head:
        key, refs = lease.key, await addressed(commit.put_blobs)
        request_id = commit.reply.request_id if commit.reply else None
        return await self._transactions.change(
            key,
            at_once(lambda draft: history.commit(draft, lease, commit, refs)),
            sent={refs[name]: data for name, data in commit.put_blobs.items()},
            reading=replies.reading(UserKeys(key.user), key.session, request_id),
        )

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
        operation = at_once(
            lambda draft: history.rollback(
                draft,
                lease,
                expected_revision=expected_revision,
                nonce=nonce,
                to_version=to_version,
                record=record,
                summary=summary,
            )
        )
        return await self._transactions.change(lease.key, operation)

    # Reading

    async def read_blobs(
        self, key: SessionKey, names: Sequence[str] | None = None, *, version: int | None = None
    ) -> dict[str, bytes]:
        return await reading.read_blobs(self._transactions, key, names, version)

    async def read_log(
        self, key: SessionKey, *, after_seq: int = 0, limit: int = 1000
    ) -> list[LogRecord]:
        arguments.check_limit(limit)
        return await reading.read_log(self._transactions, key, after_seq, limit)

    async def find_reply(self, key: SessionKey, request_id: str) -> StoredReply | None:
        return await reading.find_reply(self._transactions, key, request_id)

    # Versions

    async def versions(self, key: SessionKey) -> list[VersionInfo]:
        return (await self._transactions.read(key)).require().version_infos()

    async def fork(
        self,
        source: SessionKey,
        target: SessionKey,
        *,
        version: int | None = None,
        summary: bytes | None = None,
    ) -> Head:
        arguments.check_fork(source, target)
        return await self._transactions.change(
            target, lambda draft: history.fork(draft, self._transactions, source, version, summary)
        )

    async def collect(self, key: SessionKey, keep_recent: int) -> int:
        arguments.check_keep_recent(keep_recent)
        operation = at_once(lambda draft: history.collect(draft, keep_recent))
        return await self._transactions.change(key, operation, when_full=True)

    # Snapshots

    async def snapshot(self, key: SessionKey, name: str) -> Snapshot:
        arguments.check_snapshot(name)
        operation = at_once(lambda draft: snapshots.snapshot(draft, name))
        return await self._transactions.change(key, operation)

    async def snapshots(
        self, key: SessionKey, *, page_size: int = 50, page_token: str = ""
    ) -> tuple[list[Snapshot], str]:
        arguments.check_page_size(page_size)
        return snapshots.snapshots(await self._transactions.read(key), page_size, page_token)

    async def delete_snapshot(self, key: SessionKey, name: str) -> None:
        operation = at_once(lambda draft: snapshots.delete_snapshot(draft, name))
        await self._transactions.change(key, operation, when_full=True)

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
        refs = await addressed(put_blobs)
        return await self._transactions.change(
            lease.key,
            lambda draft: jobs.save_job(
                draft,
                self._connection,
                lease,
                request=request,
                progress=progress,
                put=refs,
                drop=drop_blobs,
            ),
            sent={refs[name]: data for name, data in put_blobs.items()},
        )

    async def end_job(self, lease: Lease) -> None:
        operation = at_once(lambda draft: jobs.end_job(draft, lease))
        await self._transactions.change(lease.key, operation, when_full=True)

    async def read_job(self, key: SessionKey) -> tuple[Job, dict[str, bytes]]:
        return await reading.read_job(self._transactions, key)

    async def jobs(self, *, limit: int = 1000) -> list[SessionKey]:
        arguments.check_limit(limit)
        return await jobs.jobs(self._transactions, limit)

    # Upkeep

    async def check_writable(self, room_bytes: int = 0) -> None:
        await self._connection.check_writable(room_bytes)

    @property
    def schema_version(self) -> int:
        return SCHEMA_VERSION

    async def check_integrity(self) -> list[str]:
        return await check.broken_laws(self._transactions)
