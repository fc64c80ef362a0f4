"""Sealing and opening of what a store keeps, each thing for its place."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence

from server.crypto.cipher import Cipher, UnsealError
from server.crypto.keys import KeysUnavailableError, LostMasterKeyError
from server.store.errors import CorruptBlobError, CorruptStoreError, StoreUnavailableError
from server.store.sealed_head import SealedBlob, SealedHead, open_progress
from server.store.sqlite.faults import translate
from server.store.values import BlobRef, Head, Job, Record, SessionKey, StoredReply, VersionInfo


@contextlib.contextmanager
def key_errors() -> Iterator[None]:
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
def damage(key: SessionKey, name: str) -> Iterator[None]:
    """Turns bytes that cannot be opened within the block into a CorruptBlobError about `name`."""
    try:
        yield
    except UnsealError as error:
        raise CorruptBlobError(key, name, str(error)) from None


def open_head(cipher: Cipher, key: SessionKey, state: Head | VersionInfo) -> SealedHead:
    """The sealed content of a head or a version. Raises CorruptBlobError."""
    with damage(key, "head"):
        return SealedHead.open(
            cipher,
            state.summary,
            key,
            state.version,
            state.fingerprint,
            state.policy,
            state.blobs,
        )


def open_for_callers(cipher: Cipher, head: Head) -> Head:
    """A head as callers know it."""
    state = open_head(cipher, head.key, head)
    job = None if head.job is None else open_job(cipher, head.key, head.job)[0]
    return dataclasses.replace(
        head,
        display_name=state.display_name,
        summary=state.summary,
        blobs=blob_refs(state.blobs),
        job=job,
    )


def open_job(cipher: Cipher, key: SessionKey, job: Job) -> tuple[Job, dict[str, SealedBlob]]:
    """A job as callers know it, and the blobs it has made. Raises CorruptBlobError."""
    with damage(key, "job"):
        request = cipher.open(job.request, ("job request", *key))
        progress, made = open_progress(cipher, key, job.progress)
    return dataclasses.replace(job, request=request, progress=progress), made


def blob_refs(blobs: Mapping[str, SealedBlob]) -> dict[str, BlobRef]:
    """Blobs as callers know them."""
    return {name: blob.ref for name, blob in blobs.items()}


def seal_blobs(
    cipher: Cipher, user: str, blobs: Mapping[str, bytes]
) -> tuple[dict[str, bytes], dict[str, SealedBlob]]:
    """Sealed bytes of blobs, and what a sealed head says of them."""
    sealed = {name: cipher.seal(data, ("blob", user)) for name, data in blobs.items()}
    refs = {
        name: SealedBlob(_digest(sealed[name]), BlobRef(_digest(data), len(data)))
        for name, data in blobs.items()
    }
    return sealed, refs


def open_blobs(
    cipher: Cipher,
    key: SessionKey,
    sealed: Mapping[str, bytes],
    known: Mapping[str, SealedBlob],
) -> dict[str, bytes]:
    """Bytes of blobs that a sealed head or job knows. Raises CorruptBlobError."""
    opened = {}
    for name, data in sealed.items():
        with damage(key, name):
            if name not in known or _digest(data) != known[name].stored_digest:
                raise UnsealError(
                    "the blob is not the one recorded in the encrypted session record"
                )
            opened[name] = cipher.open(data, ("blob", key.user))
    return opened


def seal_records(
    cipher: Cipher, key: SessionKey, lineage: str, log_seq: int, records: Sequence[Record]
) -> list[Record]:
    """Records sealed for their places in the log, the first after `log_seq`."""
    return [
        Record(kind, cipher.seal(payload, log_place(key, lineage, seq, kind)))
        for seq, (kind, payload) in enumerate(records, start=log_seq + 1)
    ]


def log_place(key: SessionKey, lineage: str, seq: int, kind: str) -> tuple[str, ...]:
    """Place that a log record is sealed for."""
    return ("log", key.user, lineage, str(seq), kind)


def reply_place(key: SessionKey, reply: StoredReply) -> tuple[str, ...]:
    """Place that a reply is sealed for."""
    return ("reply", *key, reply.request_id, reply.body_digest.hex())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
