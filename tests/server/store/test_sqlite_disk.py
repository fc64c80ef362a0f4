"""The disk under a SQLite store: removed and replaced files, and no room."""

# The loop is these tests' own: they may block it.
# ruff: noqa: ASYNC240

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from small_disk import disk_of, files_up_to, fill
from sqlite_files import KEY, change, free_content, make

from server.store.base import (
    NotFoundError,
    SessionKey,
    StoreFullError,
    StoreLostError,
)
from server.store.factory import key_store
from server.store.sqlite import SQLiteStore
from server.store.sqlite.disk import RESERVE_BYTES

MB = 1 << 20


def removed(path: Path) -> None:
    path.unlink()


def moved_away(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))


def replaced_by_a_copy(path: Path) -> None:
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    copy.rename(path)


def replaced_by_another(path: Path) -> None:
    path.with_name("other").write_bytes(b"")
    path.with_name("other").rename(path)


def folder_removed(path: Path) -> None:
    shutil.rmtree(path.parent)


def log_removed(path: Path) -> None:
    path.with_name(f"{path.name}-wal").unlink()


LOSSES = [removed, moved_away, replaced_by_a_copy, replaced_by_another, folder_removed, log_removed]


@pytest.mark.parametrize("lose", LOSSES)
async def test_a_file_that_is_lost_takes_no_more_writes(
    tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    path = tmp_path / "folder" / "store.db"
    path.parent.mkdir()
    async with SQLiteStore(path) as store:
        await make(store, a=b"a")
        lease = await store.acquire(KEY, "a", 60)
        await store.check_writable(MB)
        lose(path)
        before = {each.name: each.read_bytes() for each in path.parent.glob("store.db")}
        for call in (
            lambda: store.commit(lease, change(1, a=b"b")),
            lambda: store.renew(lease, 60),
            lambda: make(store, SessionKey("ada", "other")),
            lambda: store.delete(KEY),
            lambda: store.delete_user("ada"),
            lambda: store.check_writable(),
            lambda: store.check_writable(MB),
        ):
            with pytest.raises(StoreLostError, match=r"store\.db(-wal)? was (removed|replaced) "):
                await call()
        # What is open can be read to the end, and what was put there is left as it is.
        assert await store.read_blobs(KEY) == {"a": b"a"}
    if lose is log_removed:
        # What the removed log held went into the database in the end.
        async with SQLiteStore(path) as store:
            assert await store.read_blobs(KEY) == {"a": b"a"}
    else:
        assert before == {each.name: each.read_bytes() for each in path.parent.glob("store.db")}


async def test_a_file_that_comes_back_is_written_to_again(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with SQLiteStore(path) as store:
        await make(store, a=b"a")
        lease = await store.acquire(KEY, "a", 60)
        path.rename(tmp_path / "elsewhere")
        with pytest.raises(StoreLostError):
            await store.commit(lease, change(1, a=b"b"))
        (tmp_path / "elsewhere").rename(path)
        await store.check_writable()
        await store.commit(lease, change(1, a=b"b"))
    async with SQLiteStore(path) as store:
        assert await store.read_blobs(KEY) == {"a": b"b"}


@pytest.mark.parametrize("lose", [removed, moved_away, replaced_by_a_copy])
async def test_no_key_is_made_in_a_file_that_is_lost(
    tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    path = tmp_path / "keys.db"
    keys = key_store(path, (b"m" * 32,))
    await keys.open()
    try:
        await keys.cipher("ada", make=True)
        lose(path)
        with pytest.raises(StoreLostError):
            await keys.cipher("bob", make=True)
        with pytest.raises(StoreLostError):
            await keys.destroy("ada")
        with pytest.raises(StoreLostError):
            await keys.check_writable()
        # What has a key already can be read.
        await keys.cipher("ada")
    finally:
        await keys.close()


@pytest.mark.parametrize("room_bytes", [1, 5 * MB, 50 * MB])
async def test_room_is_asked_for_before_it_is_needed(tmp_path: Path, room_bytes: int) -> None:
    async with SQLiteStore(tmp_path / "store.db") as store:
        await store.check_writable(room_bytes)
        with (
            files_up_to(room_bytes - 1),
            pytest.raises(StoreFullError, match=f"no room for the {room_bytes:,} bytes"),
        ):
            await store.check_writable(room_bytes)
        await store.check_writable(room_bytes)
        names = {path.name.rpartition("-")[2] for path in tmp_path.iterdir()}
        assert names == {"store.db", "wal", "shm", "reserve"}


async def test_memory_has_room(tmp_path: Path) -> None:
    async with SQLiteStore(":memory:") as store:
        await store.check_writable(MB)


@pytest.mark.parametrize("size", [100, 300_000, 5 * MB])
@pytest.mark.parametrize("whole_user", [False, True])
async def test_erasing_works_within_a_limit_and_leaves_no_trace(
    tmp_path: Path, size: int, whole_user: bool
) -> None:
    """No file may grow any more: there is no room for overwriting in the same transaction."""
    path = tmp_path / "store.db"
    async with SQLiteStore(path) as store:
        await make(store, level=(b"SECRET" * size)[:size], small=b"SECRET small")
        await make(store, SessionKey("ada", "other"), a=b"PUBLIC" * 1000)
        await make(store, SessionKey("bob", "other"), a=b"PUBLIC" * 1000)
        await store._run(lambda db: db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
        with files_up_to(path.stat().st_size):
            if whole_user:
                assert await store.delete_user("ada") == 2
            else:
                await store.delete(KEY)
        assert b"SECRET" not in free_content(path)
        assert b"notes" not in free_content(path)
        with pytest.raises(NotFoundError):
            await store.head(KEY)
        assert await store.read_blobs(SessionKey("bob", "other")) == {"a": b"PUBLIC" * 1000}
        assert await store.check_integrity() == []
        # And the room that it left is used again.
        before = path.stat().st_size
        await make(store, SessionKey("bob", "new"), level=b"n" * (size // 2))
        await store._run(lambda db: db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
        assert path.stat().st_size <= before + 65536


@pytest.mark.parametrize("megabytes", [1, 4, 12])
async def test_erasing_works_on_a_full_disk(tmp_path: Path, megabytes: int) -> None:
    with disk_of(tmp_path, 64 * MB) as place:
        path = place / "store.db"
        async with SQLiteStore(path) as store:
            await make(store, level=(b"SECRET" * MB)[: megabytes * MB])
            await make(store, SessionKey("ada", "other"), a=b"PUBLIC")
            lease = await store.acquire(KEY, "a", 60)
            assert (place / "store.db-reserve").stat().st_size == RESERVE_BYTES
            ballast = fill(place)
            with pytest.raises(StoreFullError):
                await store.check_writable(MB)
            with pytest.raises(StoreFullError):
                # More than the log has room for, so that the disk is full to the last page.
                await store.commit(lease, change(1, other=b"o" * (megabytes + 20) * MB))
            await store.delete(KEY)
            assert [h.key.session for h in (await store.list_sessions("ada"))[0]] == ["other"]
            assert await store.check_integrity() == []
            ballast.unlink()
            await store.check_writable(MB)
            assert b"SECRET" not in free_content(path)
            assert b"notes" not in free_content(path)
            assert (place / "store.db-reserve").stat().st_size == RESERVE_BYTES


async def test_overwriting_that_was_cut_off_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with SQLiteStore(path) as store:
        await make(store, level=b"SECRET" * 100_000)
        await make(store, SessionKey("ada", "other"), a=b"PUBLIC")
    with sqlite3.connect(path, isolation_level=None) as connection:
        # As a process leaves it that ends between the two.
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA secure_delete = FAST")
        connection.execute("DELETE FROM sessions WHERE name = 'notes'")
        connection.execute("DELETE FROM blobs WHERE size > 100")
        connection.execute("CREATE TABLE scrubbed (data BLOB NOT NULL)")
    connection.close()
    assert b"SECRET" in path.read_bytes()
    async with SQLiteStore(path) as store:
        assert await store.check_integrity() == []
    assert b"SECRET" not in path.read_bytes()
    with sqlite3.connect(path) as connection:
        assert not connection.execute(
            "SELECT 1 FROM sqlite_master WHERE name = 'scrubbed'"
        ).fetchall()
    connection.close()
