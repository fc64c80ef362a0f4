"""Encryption at rest, around any store: what passes through is sealed, what comes back is opened.

Blobs, summaries, display names, log records, replies and jobs are sealed with the user's own key
(server/crypto). The store beneath sees names of users, sessions, snapshots and blobs, kinds of
records, ids of requests, the base model's fingerprint, the policy, numbers, sizes and times.

What was changed, swapped or cannot be opened is a CorruptBlobError. `delete_user` destroys the key
after the rows, so whatever copies of the rows there are cannot be read any more.

Sizes that a store counts (`stored_bytes`, `user_bytes`) are those of what is stored: OVERHEAD_BYTES
more for each blob and record.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from server.crypto.cipher import Cipher, UnsealError
from server.crypto.keys import KeyStore, KeysUnavailableError, LostMasterKeyError
from server.store.base import (
    BlobRef,
    Commit,
    CorruptBlobError,
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
    StoreUnavailableError,
    VersionInfo,
    VersionNotFoundError,
)
from server.store.sealed_head import SealedBlob, SealedHead, open_progress, seal_progress
from server.store.sqlite.faults import translate

# How often a state is read again that changes while it is read.
_READS = 5


class EncryptedStore(SessionStore):
    """`store`, with everything in it sealed by the keys of `keys`. Opens and closes both."""

    def __init__(self, store: SessionStore, keys: KeyStore) -> None:
        self._store = store
        self._keys = keys

    async def open(self) -> None:
        with _store_errors():
            await self._keys.open()
        try:
            await self._store.open()
        except BaseException:
            await self._keys.close()
            raise

    async def close(self) -> None:
        await self._store.close()
        with _store_errors():
            await self._keys.close()

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
        cipher = await self._cipher(key.user, make=True)
        sealed, refs = await asyncio.to_thread(_seal_blobs, cipher, key.user, blobs)
        state = SealedHead(secrets.token_hex(16), display_name, summary, refs)
        head = await self._store.create(
            key,
            fingerprint=fingerprint,
            policy=policy,
            blobs=sealed,
            summary=state.seal(cipher, key, 0, fingerprint, policy),
        )
        return _opened(cipher, head)

    async def head(self, key: SessionKey) -> Head:
        head = await self._store.head(key)
        with _damage(key, "head"):
            cipher = await self._cipher(key.user)
        return _opened(cipher, head)

    async def list_sessions(
        self, user: str, *, page_size: int = 50, page_token: str = ""
    ) -> tuple[list[Head], str]:
        heads, token = await self._store.list_sessions(
            user, page_size=page_size, page_token=page_token
        )
        if not heads:
            return [], token
        with _damage(heads[0].key, "head"):
            cipher = await self._cipher(user)
        return [_opened(cipher, head) for head in heads], token

    async def delete(self, key: SessionKey, *, etag: str | None = None) -> None:
        await self._store.delete(key, etag=etag)

    async def delete_user(self, user: str) -> int:
        count = await self._store.delete_user(user)
        with _store_errors():
            await self._keys.destroy(user)
        return count

    async def user_bytes(self, user: str) -> int:
        return await self._store.user_bytes(user)

    async def user_sessions(self, user: str) -> int:
        return await self._store.user_sessions(user)

    async def fingerprints(self, *, limit: int = 10_000) -> dict[str, int]:
        return await self._store.fingerprints(limit=limit)

    async def draw(self, user: str, amount: float, *, capacity: float, per_second: float) -> float:
        return await self._store.draw(user, amount, capacity=capacity, per_second=per_second)

    # Leases

    async def acquire(
        self, key: SessionKey, owner: str, ttl_seconds: float, *, ended_owner: str = ""
    ) -> Lease:
        return await self._store.acquire(key, owner, ttl_seconds, ended_owner=ended_owner)

    async def renew(self, lease: Lease, ttl_seconds: float) -> Lease:
        return await self._store.renew(lease, ttl_seconds)

    async def release(self, lease: Lease) -> None:
        await self._store.release(lease)

    # Changes. Each is computed from a head that is read first; if that moves on meanwhile, the
    # store refuses the change for its revision.

    async def commit(self, lease: Lease, commit: Commit) -> Head:
        key = lease.key
        cipher, head, now = await self._state(key)
        sealed, refs = await asyncio.to_thread(_seal_blobs, cipher, key.user, commit.put_blobs)
        kept = {name: now.blobs[name] for name in now.blobs.keys() - commit.drop_blobs}
        name = now.display_name if commit.display_name is None else commit.display_name
        state = SealedHead(now.lineage, name, commit.summary, kept | refs)
        fingerprint, policy = commit.fingerprint or head.fingerprint, commit.policy or head.policy
        reply = commit.reply
        if reply is not None:
            payload = cipher.seal(reply.payload, _reply_place(key, reply))
            reply = dataclasses.replace(reply, payload=payload)
        change = dataclasses.replace(
            commit,
            put_blobs=sealed,
            summary=state.seal(cipher, key, commit.version, fingerprint, policy),
            records=_seal_records(cipher, key, now.lineage, head.log_seq, commit.records),
            reply=reply,
            display_name=None,
        )
        return _opened(cipher, await self._store.commit(lease, change))

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
        key = lease.key
        cipher, head, now = await self._state(key)
        resealed = b""  # a version that is not kept is refused before this is stored
        for info in await self._store.versions(key):
            if info.version == to_version:
                target = _open_head(cipher, key, info)
                summary = target.summary if summary is None else summary
                state = SealedHead(now.lineage, now.display_name, summary, target.blobs)
                resealed = state.seal(cipher, key, head.version + 1, info.fingerprint, info.policy)
        (sealed_record,) = _seal_records(cipher, key, now.lineage, head.log_seq, [record])
        back = await self._store.rollback(
            lease,
            expected_revision=expected_revision,
            nonce=nonce,
            to_version=to_version,
            record=sealed_record,
            summary=resealed,
        )
        return _opened(cipher, back)

    # Reading

    async def read_blobs(
        self, key: SessionKey, names: Sequence[str] | None = None, *, version: int | None = None
    ) -> dict[str, bytes]:
        for _ in range(_READS):
            cipher, head, state = await self._state(key, version)
            sealed = await self._store.read_blobs(key, names, version=version)
            after = await self._store.head(key)
            if version is not None or after.etag == head.etag:
                return await asyncio.to_thread(_open_blobs, cipher, key, sealed, state.blobs)
        raise StoreUnavailableError(f"session {key} changes faster than it can be read; retry")

    async def read_log(
        self, key: SessionKey, *, after_seq: int = 0, limit: int = 1000
    ) -> list[LogRecord]:
        records = await self._store.read_log(key, after_seq=after_seq, limit=limit)
        cipher, _, state = await self._state(key)
        opened = []
        for seq, kind, payload in records:
            with _damage(key, f"log record {seq}"):
                place = _log_place(key, state.lineage, seq, kind)
                opened.append(LogRecord(seq, kind, cipher.open(payload, place)))
        return opened

    async def find_reply(self, key: SessionKey, request_id: str) -> StoredReply | None:
        reply = await self._store.find_reply(key, request_id)
        if reply is None:
            return None
        with _damage(key, f"reply {request_id}"):
            cipher = await self._cipher(key.user)
            payload = cipher.open(reply.payload, _reply_place(key, reply))
        return dataclasses.replace(reply, payload=payload)

    # Versions

    async def versions(self, key: SessionKey) -> list[VersionInfo]:
        infos = await self._store.versions(key)
        with _damage(key, "head"):
            cipher = await self._cipher(key.user)
        opened = []
        for info in infos:
            state = _open_head(cipher, key, info)
            refs = _refs(state.blobs)
            opened.append(dataclasses.replace(info, blobs=refs, summary=state.summary))
        return opened

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
        cipher, head, now = await self._state(source, version)
        if summary is not None:
            now = dataclasses.replace(now, summary=summary)
        if version is not None:
            # The display name is not a version's but the session's.
            display_name = (await self._state(source))[2].display_name
            now = dataclasses.replace(now, display_name=display_name)
        sealed = now.seal(cipher, target, head.version, head.fingerprint, head.policy)
        fork = await self._store.fork(source, target, version=version, summary=sealed)
        try:
            return _opened(cipher, fork)
        except CorruptBlobError:
            await self._store.delete(target)
            raise StoreUnavailableError(
                f"session {source} changed while it was forked; retry"
            ) from None

    async def collect(self, key: SessionKey, keep_recent: int) -> int:
        return await self._store.collect(key, keep_recent)

    # Snapshots

    async def snapshot(self, key: SessionKey, name: str) -> Snapshot:
        return await self._store.snapshot(key, name)

    async def snapshots(
        self, key: SessionKey, *, page_size: int = 50, page_token: str = ""
    ) -> tuple[list[Snapshot], str]:
        return await self._store.snapshots(key, page_size=page_size, page_token=page_token)

    async def delete_snapshot(self, key: SessionKey, name: str) -> None:
        await self._store.delete_snapshot(key, name)

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
        key = lease.key
        cipher, head, _ = await self._state(key)
        made: dict[str, SealedBlob] = {}
        if head.job is not None:
            with _damage(key, "job"):
                _, made = open_progress(cipher, key, head.job.progress)
        sealed, refs = await asyncio.to_thread(_seal_blobs, cipher, key.user, put_blobs)
        made = {name: made[name] for name in made.keys() - drop_blobs} | refs
        job = await self._store.save_job(
            lease,
            request=cipher.seal(request, ("job request", *key)),
            progress=seal_progress(cipher, key, progress, made),
            put_blobs=sealed,
            drop_blobs=drop_blobs,
        )
        return _open_job(cipher, key, job)[0]

    async def end_job(self, lease: Lease) -> None:
        await self._store.end_job(lease)

    async def read_job(self, key: SessionKey) -> tuple[Job, dict[str, bytes]]:
        job, sealed = await self._store.read_job(key)
        with _damage(key, "job"):
            cipher = await self._cipher(key.user)
        opened, made = _open_job(cipher, key, job)
        return opened, await asyncio.to_thread(_open_blobs, cipher, key, sealed, made)

    async def jobs(self, *, limit: int = 1000) -> list[SessionKey]:
        return await self._store.jobs(limit=limit)

    # Upkeep

    @property
    def schema_version(self) -> int:
        return self._store.schema_version

    async def check_writable(self, room_bytes: int = 0) -> None:
        with _store_errors():
            await self._keys.check_writable()
        await self._store.check_writable(room_bytes)

    async def check_integrity(self) -> list[str]:
        """The laws of the store beneath; what is sealed is checked when it is read."""
        return await self._store.check_integrity()

    async def _cipher(self, user: str, *, make: bool = False) -> Cipher:
        with _store_errors():
            return await self._keys.cipher(user, make=make)

    async def _state(
        self, key: SessionKey, version: int | None = None
    ) -> tuple[Cipher, Head, SealedHead]:
        """The head as it is stored, with the state that it, or a kept version, seals; for a
        version, the head has its number, fingerprint and policy."""
        head = await self._store.head(key)
        with _damage(key, "head"):
            cipher = await self._cipher(key.user)
        if version is None:
            return cipher, head, _open_head(cipher, key, head)
        for info in await self._store.versions(key):
            if info.version == version:
                shown = dataclasses.replace(
                    head, version=version, fingerprint=info.fingerprint, policy=info.policy
                )
                return cipher, shown, _open_head(cipher, key, info)
        raise VersionNotFoundError(f"version {version} of session {key} does not exist")


@contextlib.contextmanager
def _store_errors() -> Iterator[None]:
    """To callers, the file of the keys is part of the store."""
    try:
        yield
    except KeysUnavailableError as error:
        cause = error.__cause__
        known = translate(cause, "the key database") if isinstance(cause, sqlite3.Error) else None
        raise known or StoreUnavailableError(str(error)) from error
    except LostMasterKeyError as error:
        raise CorruptStoreError(str(error)) from error


@contextlib.contextmanager
def _damage(key: SessionKey, name: str) -> Iterator[None]:
    try:
        yield
    except UnsealError as error:
        raise CorruptBlobError(key, name, str(error)) from None


def _open_head(cipher: Cipher, key: SessionKey, state: Head | VersionInfo) -> SealedHead:
    with _damage(key, "head"):
        return SealedHead.open(
            cipher,
            state.summary,
            key,
            state.version,
            state.fingerprint,
            state.policy,
            state.blobs,
        )


def _opened(cipher: Cipher, head: Head) -> Head:
    """A head as callers know it."""
    state = _open_head(cipher, head.key, head)
    job = None if head.job is None else _open_job(cipher, head.key, head.job)[0]
    return dataclasses.replace(
        head,
        display_name=state.display_name,
        summary=state.summary,
        blobs=_refs(state.blobs),
        job=job,
    )


def _open_job(cipher: Cipher, key: SessionKey, job: Job) -> tuple[Job, dict[str, SealedBlob]]:
    with _damage(key, "job"):
        request = cipher.open(job.request, ("job request", *key))
        progress, made = open_progress(cipher, key, job.progress)
    return dataclasses.replace(job, request=request, progress=progress), made


def _refs(blobs: Mapping[str, SealedBlob]) -> dict[str, BlobRef]:
    return {name: blob.ref for name, blob in blobs.items()}


def _seal_blobs(
    cipher: Cipher, user: str, blobs: Mapping[str, bytes]
) -> tuple[dict[str, bytes], dict[str, SealedBlob]]:
    sealed = {name: cipher.seal(data, ("blob", user)) for name, data in blobs.items()}
    refs = {
        name: SealedBlob(_digest(sealed[name]), BlobRef(_digest(data), len(data)))
        for name, data in blobs.items()
    }
    return sealed, refs


def _open_blobs(
    cipher: Cipher,
    key: SessionKey,
    sealed: Mapping[str, bytes],
    known: Mapping[str, SealedBlob],
) -> dict[str, bytes]:
    opened = {}
    for name, data in sealed.items():
        with _damage(key, name):
            if name not in known or _digest(data) != known[name].stored_digest:
                raise UnsealError(
                    "the blob is not the one recorded in the encrypted session record"
                )
            opened[name] = cipher.open(data, ("blob", key.user))
    return opened


def _seal_records(
    cipher: Cipher, key: SessionKey, lineage: str, log_seq: int, records: Sequence[Record]
) -> list[Record]:
    return [
        Record(kind, cipher.seal(payload, _log_place(key, lineage, seq, kind)))
        for seq, (kind, payload) in enumerate(records, start=log_seq + 1)
    ]


def _log_place(key: SessionKey, lineage: str, seq: int, kind: str) -> tuple[str, ...]:
    return ("log", key.user, lineage, str(seq), kind)


def _reply_place(key: SessionKey, reply: StoredReply) -> tuple[str, ...]:
    return ("reply", *key, reply.request_id, reply.body_digest.hex())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
