"""Changes of a session in a file of SQLite, and what the file has room for."""

from __future__ import annotations

from pathlib import Path

from server.store.base import (
    Commit,
    Record,
    SessionKey,
)
from server.store.sqlite import SQLiteStore

KEY = SessionKey("ada", "notes")


def change(revision: int, **blobs: bytes) -> Commit:
    return Commit(
        expected_revision=revision,
        nonce=str(revision),
        version=0,
        summary=b"",
        put_blobs=blobs,
        records=[Record("turn", b"x")],
    )


async def make(store: SQLiteStore, key: SessionKey = KEY, **blobs: bytes) -> None:
    await store.create(key, fingerprint="f", policy="p", blobs=blobs, summary=b"")


def free_content(path: Path) -> bytes:
    return b"".join(each.read_bytes() for each in path.parent.glob(f"{path.name}*"))
