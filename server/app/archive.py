"""Archives: a session exported as one stream of bytes, and imported on another server.

The format is a row of frames: one letter, a length (4 bytes, little endian), that many bytes.
First `H`, a JSON header; then `B`, a blob, one each, its name and a zero byte before its bytes;
then `L`, a log record, one each, its kind and a zero byte before its payload; last `E`, the SHA-256
of all frames before. An import is checked in every part before anything is written: frames, digest,
base model, policy, tensors, records, and that memory and log belong together.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

from hope_runtime.errors import InvalidRequestError
from hope_runtime.session.codec import encode_memory
from hope_runtime.session.effective import effective, redacted
from hope_runtime.session.log import Record, RecordKind
from hope_runtime.session.log_digest import extend_digest
from hope_runtime.session.memory import SessionMemory
from server.app.cancellation import complete
from server.app.session_log import log_pages
from server.app.sessions import Sessions
from server.store.base import Commit, Head, SessionKey
from server.store.base import Record as StoredRecord

FORMAT = 1
CHUNK_BYTES = 1 << 20
MAX_IMPORT_BYTES = 256 << 20
_HEAD_BYTES = 5
_HEADER = ("fingerprint", "policy", "display_name")


@dataclass(slots=True)
class _Contents:
    """Contents of an export."""

    header: dict[str, Any] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    records: list[StoredRecord] = field(default_factory=list)


async def export(sessions: Sessions, key: SessionKey) -> AsyncIterator[bytes]:
    """Export a session's present state and whole log, in pieces of at most a mebibyte."""
    async with sessions.exclusive(key) as resident:
        head = resident.head
        contents = _Contents(
            {
                "format": FORMAT,
                "fingerprint": head.fingerprint,
                "policy": head.policy,
                "display_name": head.display_name,
                "version": head.version,
            },
            await sessions.store.read_blobs(key),
        )
        async for page in log_pages(sessions, key):
            contents.records += [StoredRecord(each.kind, each.payload) for each in page]
    contents.records = await asyncio.to_thread(_without_forgotten, contents.records)
    # Nothing is read from here on, so the session is free while a slow caller takes the export.
    for frame in _frames(contents):
        for start in range(0, len(frame), CHUNK_BYTES):
            yield frame[start : start + CHUNK_BYTES]


async def import_session(sessions: Sessions, key: SessionKey, chunks: AsyncIterator[bytes]) -> Head:
    """Create a session from an export, at version 1 of its own.

    Raises InvalidRequestError for an export that is broken or cut off, FingerprintMismatchError for
    one of another base model, QuotaExceededError, AlreadyExistsError when the name is taken.
    """
    data = bytearray()
    async for chunk in chunks:
        data += chunk
        if len(data) > MAX_IMPORT_BYTES:
            raise _broken(f"it is longer than {MAX_IMPORT_BYTES >> 20} MiB")
    contents = await asyncio.to_thread(_parse, bytes(data))
    fingerprint, policy = contents.header["fingerprint"], contents.header["policy"]
    sessions.base.check("the exported session", fingerprint, "import it where that model is served")
    sessions.policy(policy)
    memory = await asyncio.to_thread(_checked_memory, sessions, contents)
    adding = sum(map(len, contents.blobs.values()))
    adding += sum(len(record.payload) for record in contents.records)
    await sessions.quotas.check(key, new=True, adding=adding)
    return await complete(_store(sessions, key, contents, memory))


async def _store(
    sessions: Sessions, key: SessionKey, contents: _Contents, memory: SessionMemory
) -> Head:
    store, policy = sessions.store, memory.policy.name
    # Under the fingerprint that its memory was learnt under, as every blob says.
    empty = SessionMemory.fresh(contents.header["fingerprint"], memory.policy)
    await store.create(
        key,
        fingerprint=contents.header["fingerprint"],
        policy=policy,
        display_name=contents.header["display_name"],
        blobs=encode_memory(empty),
        summary=sessions.commits.summary(empty),
    )
    try:
        async with sessions.unloaded(key) as lease:
            commit = Commit(
                expected_revision=1,
                nonce=uuid.uuid4().hex,
                version=1,
                summary=sessions.commits.summary(memory),
                put_blobs=contents.blobs,
                records=contents.records,
            )
            return await sessions.commits.retried(lambda: store.commit(lease, commit))
    except BaseException:
        # An import that failed leaves nothing behind.
        with contextlib.suppress(Exception):
            await store.delete(key)
        raise


def _without_forgotten(stored: list[StoredRecord]) -> list[StoredRecord]:
    """The records as they leave the server: without the text of statements that were forgotten."""
    if not any(each.kind == RecordKind.FORGET for each in stored):
        return stored
    records = [Record.decode(each.payload) for each in stored]
    return [
        each if left is record else StoredRecord(each.kind, left.encode())
        for each, record, left in zip(stored, records, redacted(records), strict=True)
    ]


def _checked_memory(sessions: Sessions, contents: _Contents) -> SessionMemory:
    memory = sessions.decode(contents.blobs)
    digest = bytes(32)
    records = [Record.decode(each.payload) for each in contents.records]
    vocab_size = sessions.engine.layout.vocab_size
    if any(token >= vocab_size for record in records for token in record.tokens):
        raise _broken("its log contains token ids outside the model's vocabulary")
    for record in effective(records):
        digest = extend_digest(digest, record)
    if memory.fingerprint != contents.header["fingerprint"]:
        raise _broken("its memory is of another base model than it says")
    if digest != memory.log_digest:
        raise _broken("its memory does not match its log")
    return memory


def _frames(contents: _Contents) -> Iterator[bytes]:
    sha = hashlib.sha256()
    parts = [(b"H", json.dumps(contents.header).encode())]
    parts += [(b"B", name.encode() + b"\0" + blob) for name, blob in contents.blobs.items()]
    parts += [(b"L", kind.encode() + b"\0" + payload) for kind, payload in contents.records]
    for letter, body in parts:
        frame = letter + len(body).to_bytes(4, "little") + body
        sha.update(frame)
        yield frame
    yield b"E" + sha.digest_size.to_bytes(4, "little") + sha.digest()


def _parse(data: bytes) -> _Contents:
    contents = _Contents()
    at = 0
    while at + _HEAD_BYTES <= len(data):
        letter, size = data[at : at + 1], int.from_bytes(data[at + 1 : at + _HEAD_BYTES], "little")
        body = data[at + _HEAD_BYTES : at + _HEAD_BYTES + size]
        if len(body) != size:
            break
        if (at == 0) != (letter == b"H"):
            raise _broken("it does not begin with a header")
        if letter == b"E":
            if body != hashlib.sha256(data[:at]).digest() or at + _HEAD_BYTES + size != len(data):
                raise _broken("it was modified or damaged")
            return contents
        _take(contents, letter, body)
        at += _HEAD_BYTES + size
    raise _broken("it is truncated" if data else "it is empty")


def _take(contents: _Contents, letter: bytes, body: bytes) -> None:
    try:
        if letter == b"H":
            header = json.loads(body)
            if header["format"] > FORMAT:
                raise _broken(
                    f"it has format {header['format']}, and this server supports formats up to "
                    f"{FORMAT}"
                )
            if not all(isinstance(header[each], str) for each in _HEADER):
                raise TypeError("header")
            contents.header = header
            return
        name, separator, rest = body.partition(b"\0")
        if not separator or letter not in (b"B", b"L"):
            raise ValueError("unknown frame")
        if letter == b"B":
            contents.blobs[name.decode()] = rest
        else:
            contents.records.append(StoredRecord(name.decode(), rest))
    except (ValueError, KeyError, TypeError) as error:
        raise _broken("a part of it cannot be decoded") from error


def _broken(reason: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"the uploaded data is not a session export: {reason}", field="chunk"
    )
