"""Redis store: each call is one transaction of `transaction`, and what it does is in the modules
beside this one.

Many processes may use one server, from many machines; time is the server's. A call reads the
record, sends new blobs in pieces, and ends with one small script that compares and writes.

Erasing deletes keys. It does not reach replicas that are cut off, backups, or what the append-only
file still holds until the server writes it anew (BGREWRITEAOF).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from server.store.base import (
    MAX_PAGE_SIZE,
    Commit,
    CorruptStoreError,
    Head,
    Job,
    Lease,
    LogRecord,
    Record,
    SessionKey,
    SessionStore,
    Snapshot,
    StoredReply,
    StoreError,
    StoreVersionError,
    VersionInfo,
)
from server.store.leases import LeaseWatch, check_lease_request
from server.store.redis import check, history, jobs, leases, reading, replies, sessions, snapshots
from server.store.redis.blobs import addressed
from server.store.redis.connection import Connection
from server.store.redis.durability import Durability
from server.store.redis.keys import FORMAT, UserKeys
from server.store.redis.transaction import Draft, Transactions

_log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
# Idle sessions are looked for so often, or oftener when they are erased sooner.
SWEEP_SECONDS = 3600.0


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
        self._idle_seconds = idle_seconds
        self._sweeper: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await self._connection.open()
        try:
            await self._check_format()
        except BaseException:
            await self._connection.close()
            raise
        if self._idle_seconds is not None:
            self._sweeper = asyncio.create_task(self._sweep(self._idle_seconds))

    async def close(self) -> None:
        sweeper, self._sweeper = self._sweeper, None
        if sweeper is not None:
            sweeper.cancel()
            await asyncio.wait([sweeper])
        await self._connection.close()

    async def _check_format(self) -> None:
        where = self._connection.where
        found = await self._connection.call("GET", FORMAT)
        if found is None:
            await self._connection.call("SET", FORMAT, SCHEMA_VERSION, "NX")
            found = await self._connection.call("GET", FORMAT)
        if not found.isdigit():
            raise CorruptStoreError(
                f"{where} contains keys of another program under the prefix 'hope:'; use another "
                "database for the store"
            )
        if int(found) > SCHEMA_VERSION:
            raise StoreVersionError(
                f"{where} has format {int(found)}, and this program supports formats up to "
                f"{SCHEMA_VERSION}; use a newer program"
            )

    async def _sweep(self, idle_seconds: float) -> None:
        while True:
            await asyncio.sleep(min(SWEEP_SECONDS, idle_seconds / 4))
            try:
                if erased := await self.erase_idle(idle_seconds):
                    _log.info("deleted %d idle sessions", erased)
            except StoreError as error:
                _log.warning("could not delete idle sessions; retrying later: %s", error)

    async def erase_idle(self, idle_seconds: float) -> int:
        """Erases sessions that nobody changed for so long, holds or works on; returns how many."""
        return await sessions.erase_idle(self._transactions, idle_seconds)

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

        async def operation(draft: Draft) -> Head:
            return await sessions.create(
                draft,
                self._transactions,
                fingerprint=fingerprint,
                policy=policy,
                display_name=display_name,
                blobs=refs,
                summary=summary,
            )

        sent = {refs[name]: blobs[name] for name in blobs}
        return await self._transactions.change(key, operation, sent=sent)

    async def head(self, key: SessionKey) -> Head:
        return (await self._transactions.read(key)).require().head()

    async def list_sessions(
        self, user: str, *, page_size: int = 50, page_token: str = ""
    ) -> tuple[list[Head], str]:
        if not 1 <= page_size <= MAX_PAGE_SIZE:
            raise ValueError(f"page_size is {page_size}; allowed values: 1 to {MAX_PAGE_SIZE}")
        return await sessions.list_sessions(self._transactions, user, page_size, page_token)

    async def delete(self, key: SessionKey, *, etag: str | None = None) -> None:
        async def operation(draft: Draft) -> None:
            sessions.delete(draft, etag)

        await self._transactions.change(key, operation, when_full=True)

    async def delete_user(self, user: str) -> int:
        return await sessions.delete_user(self._transactions, user)

    async def user_bytes(self, user: str) -> int:
        return await sessions.user_bytes(self._transactions, user)

    async def user_sessions(self, user: str) -> int:
        return int(await self._connection.call("ZCARD", UserKeys(user).names))

    async def fingerprints(self, *, limit: int = 10_000) -> dict[str, int]:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        return await sessions.fingerprints(self._transactions, limit)

    async def draw(self, user: str, amount: float, *, capacity: float, per_second: float) -> float:
        return await self._connection.draw(UserKeys(user), amount, capacity, per_second)

    # Leases

    async def acquire(
        self, key: SessionKey, owner: str, ttl_seconds: float, *, ended_owner: str = ""
    ) -> Lease:
        check_lease_request(owner, ttl_seconds)

        async def operation(draft: Draft) -> Lease:
            return await leases.acquire(
                draft,
                self._transactions,
                owner,
                ttl_seconds,
                watch=self._leases,
                ended_owner=ended_owner,
            )

        return await self._transactions.change(key, operation, when_full=True)

    async def renew(self, lease: Lease, ttl_seconds: float) -> Lease:
        check_lease_request(lease.owner, ttl_seconds)

        async def operation(draft: Draft) -> Lease:
            return leases.renew(draft, lease, ttl_seconds)

        return await self._transactions.change(lease.key, operation, when_full=True)

    async def release(self, lease: Lease) -> None:
        async def operation(draft: Draft) -> None:
            leases.release(draft, lease)

        await self._transactions.change(lease.key, operation, when_full=True)

    # Changes

    async def commit(self, lease: Lease, commit: Commit) -> Head:
        refs = await addressed(commit.put_blobs)

        async def operation(draft: Draft) -> Head:
            return history.commit(draft, lease, commit, refs)

        key = lease.key
        request_id = commit.reply.request_id if commit.reply else None
        return await self._transactions.change(
            key,
            operation,
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
        if not nonce:
            raise ValueError("a rollback requires a nonce")

        async def operation(draft: Draft) -> Head:
            return history.rollback(
                draft,
                lease,
                expected_revision=expected_revision,
                nonce=nonce,
                to_version=to_version,
                record=record,
                summary=summary,
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
        if limit < 1:
            raise ValueError(f"limit is {limit}; it must be at least 1")
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
        if source.user != target.user:
            raise ValueError("a fork must belong to the same user as its source")

        async def operation(draft: Draft) -> Head:
            return await history.fork(draft, self._transactions, source, version, summary)

        return await self._transactions.change(target, operation)

    async def collect(self, key: SessionKey, keep_recent: int) -> int:
        if keep_recent < 1:
            raise ValueError("the current version cannot be collected")

        async def operation(draft: Draft) -> int:
            return history.collect(draft, keep_recent)

        return await self._transactions.change(key, operation, when_full=True)

    # Snapshots

    async def snapshot(self, key: SessionKey, name: str) -> Snapshot:
        if not name:
            raise ValueError("a snapshot requires a name")

        async def operation(draft: Draft) -> Snapshot:
            return snapshots.snapshot(draft, name)

        return await self._transactions.change(key, operation)

    async def snapshots(
        self, key: SessionKey, *, page_size: int = 50, page_token: str = ""
    ) -> tuple[list[Snapshot], str]:
        if not 1 <= page_size <= MAX_PAGE_SIZE:
            raise ValueError(f"page_size is {page_size}; allowed values: 1 to {MAX_PAGE_SIZE}")
        return snapshots.snapshots(await self._transactions.read(key), page_size, page_token)

    async def delete_snapshot(self, key: SessionKey, name: str) -> None:
        async def operation(draft: Draft) -> None:
            snapshots.delete_snapshot(draft, name)

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
        if both := drop_blobs & put_blobs.keys():
            raise ValueError(f"a blob cannot be both put and dropped: {sorted(both)}")
        refs = await addressed(put_blobs)

        async def operation(draft: Draft) -> Job:
            return await jobs.save_job(
                draft,
                self._connection,
                lease,
                request=request,
                progress=progress,
                put=refs,
                drop=drop_blobs,
            )

        sent = {refs[name]: data for name, data in put_blobs.items()}
        return await self._transactions.change(lease.key, operation, sent=sent)

    async def end_job(self, lease: Lease) -> None:
        async def operation(draft: Draft) -> None:
            jobs.end_job(draft, lease)

        await self._transactions.change(lease.key, operation, when_full=True)

    async def read_job(self, key: SessionKey) -> tuple[Job, dict[str, bytes]]:
        return await reading.read_job(self._transactions, key)

    async def jobs(self, *, limit: int = 1000) -> list[SessionKey]:
        if limit < 1:
            raise ValueError(f"limit is {limit}; it must be at least 1")
        return await jobs.jobs(self._transactions, limit)

    # Upkeep

    async def check_writable(self, room_bytes: int = 0) -> None:
        await self._connection.check_writable(room_bytes)

    @property
    def schema_version(self) -> int:
        return SCHEMA_VERSION

    async def check_integrity(self) -> list[str]:
        return await check.broken_laws(self._transactions)
