"""A store around another one: what only the inner store need know of passes straight through."""

from __future__ import annotations

from server.store.base import Lease, SessionKey, SessionStore, Snapshot


class StoreAround(SessionStore):
    """Base of stores that keep everything in `store`. It passes on the calls without state of a
    session in them; the others are left to the class that is made of it."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store

    async def delete(self, key: SessionKey, *, etag: str | None = None) -> None:
        await self._store.delete(key, etag=etag)

    async def user_bytes(self, user: str) -> int:
        return await self._store.user_bytes(user)

    async def user_sessions(self, user: str) -> int:
        return await self._store.user_sessions(user)

    async def fingerprints(self, *, limit: int = 10_000) -> dict[str, int]:
        return await self._store.fingerprints(limit=limit)

    async def draw(self, user: str, amount: float, *, capacity: float, per_second: float) -> float:
        return await self._store.draw(user, amount, capacity=capacity, per_second=per_second)

    async def acquire(
        self, key: SessionKey, owner: str, ttl_seconds: float, *, ended_owner: str = ""
    ) -> Lease:
        return await self._store.acquire(key, owner, ttl_seconds, ended_owner=ended_owner)

    async def renew(self, lease: Lease, ttl_seconds: float) -> Lease:
        return await self._store.renew(lease, ttl_seconds)

    async def release(self, lease: Lease) -> None:
        await self._store.release(lease)

    async def collect(self, key: SessionKey, keep_recent: int) -> int:
        return await self._store.collect(key, keep_recent)

    async def snapshot(self, key: SessionKey, name: str) -> Snapshot:
        return await self._store.snapshot(key, name)

    async def snapshots(
        self, key: SessionKey, *, page_size: int = 50, page_token: str = ""
    ) -> tuple[list[Snapshot], str]:
        return await self._store.snapshots(key, page_size=page_size, page_token=page_token)

    async def delete_snapshot(self, key: SessionKey, name: str) -> None:
        await self._store.delete_snapshot(key, name)

    async def end_job(self, lease: Lease) -> None:
        await self._store.end_job(lease)

    async def jobs(self, *, limit: int = 1000) -> list[SessionKey]:
        return await self._store.jobs(limit=limit)

    @property
    def schema_version(self) -> int:
        return self._store.schema_version
