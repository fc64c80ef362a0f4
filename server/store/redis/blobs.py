"""Bytes of blobs, in pieces: sending them before a commit keeps them, and reading them back."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Mapping

from server.store.redis.connection import SMALL_BYTES, Connection
from server.store.redis.keys import CHUNK_BYTES, UserKeys
from server.store.values import BlobRef

# Hashing so much holds up the event loop for less than a hop to a thread does.
HASHED_INLINE_BYTES = 1 << 18


async def addressed(blobs: Mapping[str, bytes]) -> dict[str, BlobRef]:
    """The content address of each blob."""

    def address() -> dict[str, BlobRef]:
        return {name: BlobRef(digest_of(data), len(data)) for name, data in blobs.items()}

    if sum(map(len, blobs.values())) <= HASHED_INLINE_BYTES:
        return address()
    return await asyncio.to_thread(address)


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def send(connection: Connection, keys: UserKeys, blobs: Mapping[BlobRef, bytes]) -> None:
    """Stores those pieces that are not there yet. They go by themselves unless they are kept."""
    pieces: dict[str, memoryview] = {}
    large: list[str] = []
    for ref, data in blobs.items():
        names = keys.chunks(ref)
        view = memoryview(data)
        for number, name in enumerate(names):
            pieces[name] = view[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]
        if ref.size_bytes > SMALL_BYTES:
            large += names
    known = set(large) - await connection.missing(large)
    await connection.put_pending({name: pieces[name] for name in pieces if name not in known})


async def fetch(
    connection: Connection, keys: UserKeys, refs: Iterable[BlobRef]
) -> dict[BlobRef, bytes | None]:
    """Bytes of blobs, None for one of which a piece is missing. They are not checked."""
    names = {ref: keys.chunks(ref) for ref in refs}
    pieces = await connection.get([name for each in names.values() for name in each])
    found: dict[BlobRef, bytes | None] = {}
    rest = iter(pieces)
    for ref, each in names.items():
        parts = [next(rest) for _ in each]
        whole = [part for part in parts if part is not None]
        found[ref] = b"".join(whole) if len(whole) == len(parts) else None
    return found


def fault_of(ref: BlobRef, data: bytes | None) -> str | None:
    """Fault in the bytes of a blob; None when they are what was stored."""
    if data is None:
        return "it is missing"
    if len(data) != ref.size_bytes:
        return f"it has {len(data)} bytes instead of {ref.size_bytes}"
    return None if digest_of(data) == ref.digest else "its digest differs"


async def faults_of(found: Mapping[BlobRef, bytes | None]) -> dict[BlobRef, str | None]:
    """`fault_of` for each."""

    def look() -> dict[BlobRef, str | None]:
        return {ref: fault_of(ref, data) for ref, data in found.items()}

    if sum(ref.size_bytes for ref in found) <= HASHED_INLINE_BYTES:
        return look()
    return await asyncio.to_thread(look)
