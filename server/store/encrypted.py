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
import dataclasses
import secrets
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from server.crypto.keys import KeyStore
from server.store.arguments import check_fork
from server.store.around import StoreAround
from server.store.base import (
    Commit,
    CorruptBlobError,
    Head,
    Job,
    Lease,
    LogRecord,
    Record,
    SessionKey,
    SessionStore,
    StoredReply,
    StoreUnavailableError,
    VersionInfo,
)
from server.store.sealed_head import SealedBlob, SealedHead, open_progress, seal_progress
from server.store.sealed_states import SealedStates
from server.store.sealing import (
    blob_refs,
    damage,
    key_errors,
    log_place,
    open_blobs,
    open_for_callers,
    open_head,
    open_job,
    reply_place,
    seal_blobs,
    seal_records,
)

# How often a state is read again that changes while it is read.
_READS = 5


class EncryptedStore(StoreAround):
    """`store`, with everything in it sealed by the keys of `keys`. Opens and closes both."""

    def __init__(self, store: SessionStore, keys: KeyStore) -> None:
        super().__init__(store)
        self._keys = keys
        self._sealed = SealedStates(store, keys)

    async def open(self) -> None:
        with key_errors():
            await self._keys.open()
        try:
            await self._store.open()
        except BaseException:
            await self._keys.close()
            raise

    async def close(self) -> None:
        await self._store.close()
        with key_errors():
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
        cipher = await self._sealed.cipher(key.user, make=True)
        sealed, refs = await asyncio.to_thread(seal_blobs, cipher, key.user, blobs)
        state = SealedHead(secrets.token_hex(16), display_name, summary, refs)
        head = await self._store.create(
            key,
            fingerprint=fingerprint,
            policy=policy,
            blobs=sealed,
            summary=state.seal(cipher, key, 0, fingerprint, policy),
        )
        return open_for_callers(cipher, head)

    async def head(self, key: SessionKey) -> Head:
        head = await self._store.head(key)
        cipher = await self._sealed.cipher_of(key)
        return open_for_callers(cipher, head)

    async def list_sessions(
        self, user: str, *, page_size: int = 50, page_token: str = ""
    ) -> tuple[list[Head], str]:
        heads, token = await self._store.list_sessions(
            user, page_size=page_size, page_token=page_token
        )
        if not heads:
            return [], token
        cipher = await self._sealed.cipher_of(heads[0].key)
        return [open_for_callers(cipher, head) for head in heads], token

    async def delete_user(self, user: str) -> int:
        count = await self._store.delete_user(user)
        with key_errors():
            await self._keys.destroy(user)
        return count

    # Changes. Each is computed from a head that is read first; if that moves on meanwhile, the
    # store refuses the change for its revision.

    async def commit(self, lease: Lease, commit: Commit) -> Head:
        key = lease.key
        cipher, head, now = await self._sealed.state(key)
        sealed, refs = await asyncio.to_thread(seal_blobs, cipher, key.user, commit.put_blobs)
        kept = {name: now.blobs[name] for name in now.blobs.keys() - commit.drop_blobs}
        name = now.display_name if commit.display_name is None else commit.display_name
        state = SealedHead(now.lineage, name, commit.summary, kept | refs)
        fingerprint, policy = commit.fingerprint or head.fingerprint, commit.policy or head.policy
        reply = commit.reply
        if reply is not None:
            payload = cipher.seal(reply.payload, reply_place(key, reply))
            reply = dataclasses.replace(reply, payload=payload)
        change = dataclasses.replace(
            commit,
            put_blobs=sealed,
            summary=state.seal(cipher, key, commit.version, fingerprint, policy),
            records=seal_records(cipher, key, now.lineage, head.log_seq, commit.records),
            reply=reply,
            display_name=None,
        )
        return open_for_callers(cipher, await self._store.commit(lease, change))

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
        cipher, head, now = await self._sealed.state(key)
        resealed = b""  # a version that is not kept is refused before this is stored
        for info in await self._store.versions(key):
            if info.version == to_version:
                target = open_head(cipher, key, info)
                summary = target.summary if summary is None else summary
                state = SealedHead(now.lineage, now.display_name, summary, target.blobs)
                resealed = state.seal(cipher, key, head.version + 1, info.fingerprint, info.policy)
        (sealed_record,) = seal_records(cipher, key, now.lineage, head.log_seq, [record])
        back = await self._store.rollback(
            lease,
            expected_revision=expected_revision,
            nonce=nonce,
            to_version=to_version,
            record=sealed_record,
            summary=resealed,
        )
        return open_for_callers(cipher, back)

    # Reading

    async def read_blobs(
        self, key: SessionKey, names: Sequence[str] | None = None, *, version: int | None = None
    ) -> dict[str, bytes]:
        for _ in range(_READS):
            cipher, head, state = await self._sealed.state(key, version)
            sealed = await self._store.read_blobs(key, names, version=version)
            after = await self._store.head(key)
            if version is not None or after.etag == head.etag:
                return await asyncio.to_thread(open_blobs, cipher, key, sealed, state.blobs)
        raise StoreUnavailableError(f"session {key} changes faster than it can be read; retry")

    async def read_log(
        self, key: SessionKey, *, after_seq: int = 0, limit: int = 1000
    ) -> list[LogRecord]:
        records = await self._store.read_log(key, after_seq=after_seq, limit=limit)
        cipher, _, state = await self._sealed.state(key)
        opened = []
        for seq, kind, payload in records:
            with damage(key, f"log record {seq}"):
                place = log_place(key, state.lineage, seq, kind)
                opened.append(LogRecord(seq, kind, cipher.open(payload, place)))
        return opened

    async def find_reply(self, key: SessionKey, request_id: str) -> StoredReply | None:
        reply = await self._store.find_reply(key, request_id)
        if reply is None:
            return None
        cipher = await self._sealed.cipher_of(key, f"reply {request_id}")
        with damage(key, f"reply {request_id}"):
            payload = cipher.open(reply.payload, reply_place(key, reply))
        return dataclasses.replace(reply, payload=payload)

    # Versions

    async def versions(self, key: SessionKey) -> list[VersionInfo]:
        infos = await self._store.versions(key)
        cipher = await self._sealed.cipher_of(key)
        opened = []
        for info in infos:
            state = open_head(cipher, key, info)
            refs = blob_refs(state.blobs)
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
        check_fork(source, target)
        cipher, head, now = await self._sealed.state(source, version)
        if summary is not None:
            now = dataclasses.replace(now, summary=summary)
        if version is not None:
            # The display name is not a version's but the session's.
            display_name = (await self._sealed.state(source))[2].display_name
            now = dataclasses.replace(now, display_name=display_name)
        sealed = now.seal(cipher, target, head.version, head.fingerprint, head.policy)
        fork = await self._store.fork(source, target, version=version, summary=sealed)
        try:
            return open_for_callers(cipher, fork)
        except CorruptBlobError:
            await self._store.delete(target)
            raise StoreUnavailableError(
                f"session {source} changed while it was forked; retry"
            ) from None

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
        cipher, head, _ = await self._sealed.state(key)
        made: dict[str, SealedBlob] = {}
        if head.job is not None:
            with damage(key, "job"):
                _, made = open_progress(cipher, key, head.job.progress)
        sealed, refs = await asyncio.to_thread(seal_blobs, cipher, key.user, put_blobs)
        made = {name: made[name] for name in made.keys() - drop_blobs} | refs
        job = await self._store.save_job(
            lease,
            request=cipher.seal(request, ("job request", *key)),
            progress=seal_progress(cipher, key, progress, made),
            put_blobs=sealed,
            drop_blobs=drop_blobs,
        )
        return open_job(cipher, key, job)[0]

    async def read_job(self, key: SessionKey) -> tuple[Job, dict[str, bytes]]:
        job, sealed = await self._store.read_job(key)
        cipher = await self._sealed.cipher_of(key, "job")
        opened, made = open_job(cipher, key, job)
        return opened, await asyncio.to_thread(open_blobs, cipher, key, sealed, made)

    # Upkeep

    async def check_writable(self, room_bytes: int = 0) -> None:
        with key_errors():
            await self._keys.check_writable()
        await self._store.check_writable(room_bytes)

    async def check_integrity(self) -> list[str]:
        """The laws of the store beneath; what is sealed is checked when it is read."""
        return await self._store.check_integrity()
