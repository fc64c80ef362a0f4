"""Size of SQLite's file and of its write-ahead log while turns are written."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from pathlib import Path

import pytest
from sqlite_files import KEY, change, free_content, make

from server.store.base import (
    Commit,
    Record,
    SessionKey,
    StoredReply,
)
from server.store.sqlite import SQLiteStore
from server.store.sqlite.schema import LOG_BYTES


def log_of(path: Path) -> int:
    return path.with_name(f"{path.name}-wal").stat().st_size


async def chat(store: SQLiteStore, turns: int, first: int = 1, level: bytes = b"") -> None:
    """Turns as a server commits them: a record, a state of 2 kB, a reply."""
    lease = await store.acquire(KEY, "a", 60)
    for number in range(first, first + turns):
        said = Commit(
            expected_revision=number,
            nonce=f"turn {number}",
            version=0,
            summary=os.urandom(300),
            put_blobs={"state": os.urandom(2000)} | ({"level": level} if level else {}),
            records=[Record("turn", os.urandom(300))],
            reply=StoredReply(
                request_id=str(number), body_digest=b"d", payload=os.urandom(200), expires_at=4e9
            ),
        )
        await store.commit(lease, said)


@pytest.mark.parametrize("others", [0, 1, 300])
async def test_a_turn_writes_a_few_pages(tmp_path: Path, others: int) -> None:
    path = tmp_path / "store.db"
    async with SQLiteStore(path) as store:
        for number in range(others):
            await make(store, SessionKey(f"u{number % 7}", f"s{number}"), state=os.urandom(2000))
        await make(store, state=b"s", level=b"l")
        await chat(store, 5)
        await store._run(lambda db: db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
        await chat(store, 20, 6)
        # 3 kB are said, and each of about ten pages of 4 kB is written whole.
        assert log_of(path) / 20 < 56_000
        assert await store.check_integrity() == []


@pytest.mark.parametrize("turns", [300, 600])
async def test_the_log_stays_small_without_readers(tmp_path: Path, turns: int) -> None:
    path = tmp_path / "store.db"
    async with SQLiteStore(path) as store:
        await make(store, state=b"s")
        await chat(store, turns)
        assert log_of(path) <= 2 * LOG_BYTES


@pytest.mark.parametrize("goes_on", ["writing", "looking", "erasing"])
async def test_the_log_is_cut_when_a_long_reader_ends(tmp_path: Path, goes_on: str) -> None:
    path = tmp_path / "store.db"
    async with SQLiteStore(path, busy_seconds=30) as store:
        await make(store, state=b"s")
        await make(store, SessionKey("ada", "old"), level=b"SECRET" * 1000)
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM sessions").fetchone() == (2,)
        await chat(store, 250, level=os.urandom(100_000))
        grown = log_of(path)
        assert grown > 2 * LOG_BYTES
        # Nobody waits for the reader, whose view lasts.
        await asyncio.wait_for(store.delete(SessionKey("ada", "old")), 20)
        await asyncio.wait_for(store.check_writable(), 20)
        assert reader.execute("SELECT count(*) FROM sessions").fetchone() == (2,)
        reader.close()
        if goes_on == "writing":
            await chat(store, 2, 251)
        elif goes_on == "looking":
            await store.check_writable()
            assert b"SECRET" not in free_content(path)
        else:
            await store.delete(KEY)
            assert b"SECRET" not in free_content(path)
        assert log_of(path) <= LOG_BYTES + 65536
        assert await store.check_integrity() == []


@pytest.mark.parametrize("page_bytes", [1024, 4096, 16384])
async def test_a_file_keeps_its_pages_and_a_bounded_log(tmp_path: Path, page_bytes: int) -> None:
    path = tmp_path / "store.db"
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA page_size = {page_bytes}")
        connection.execute("VACUUM")
    connection.close()
    async with SQLiteStore(path) as store:
        await make(store, state=b"s")
        await chat(store, 400)
        await store.check_writable()
        assert log_of(path) <= 2 * LOG_BYTES
        found = await store._run(lambda db: db.execute("PRAGMA page_size").fetchone()[0])
        assert found == page_bytes


async def test_a_blob_that_somebody_else_knows_stays_when_a_turn_replaces_it(
    tmp_path: Path,
) -> None:
    """A state that nobody else refers to is written over; any other is not."""
    other, copy = SessionKey("ada", "other"), SessionKey("ada", "copy")
    async with SQLiteStore(tmp_path / "store.db") as store:
        await make(store, state=b"0", twin=b"0")
        await make(store, other, state=b"1")
        lease = await store.acquire(KEY, "a", 60)
        for number, content in enumerate((b"1", b"2", b"3", b"3", b"0", b"4"), start=1):
            await store.commit(lease, change(number, state=content))
            if number == 2:
                await store.fork(KEY, copy)
            await store.save_job(
                lease, request=b"r", progress=b"", put_blobs={"made": content, "more": b"5"}
            )
            assert await store.check_integrity() == []
        assert await store.read_blobs(KEY) == {"state": b"4", "twin": b"0"}
        assert await store.read_blobs(KEY, version=0) == {"state": b"0", "twin": b"0"}
        assert await store.read_blobs(other) == {"state": b"1"}
        assert await store.read_blobs(copy) == {"state": b"2", "twin": b"0"}
        assert (await store.read_job(KEY))[1] == {"made": b"4", "more": b"5"}
