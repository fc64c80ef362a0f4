"""The file of a SQLite store: what may be in it, and what it may leave behind."""

# The loop is these tests' own: they may block it.
# ruff: noqa: ASYNC240

import asyncio
import gzip
import sqlite3
import stat
from pathlib import Path

import pytest

from server.store.base import (
    Commit,
    CorruptStoreError,
    LogRecord,
    Record,
    SessionKey,
    SessionStore,
    StoredReply,
    StoreFullError,
    StoreUnavailableError,
    StoreVersionError,
)
from server.store.sqlite import SQLiteStore
from server.store.sqlite.schema import PAGE_BYTES, SCHEMA_VERSION

KEY = SessionKey("ada", "notes")
GOLDEN = Path(__file__).with_name("golden")


async def make(store: SessionStore, **blobs: bytes) -> None:
    await store.create(KEY, fingerprint="f", policy="p", blobs=blobs, summary=b"")


def change(revision: int, version: int = 0, **blobs: bytes) -> Commit:
    return Commit(
        expected_revision=revision,
        nonce=str(revision),
        version=version,
        summary=b"",
        put_blobs=blobs,
        records=[Record("turn", b"x")],
    )


async def fill_golden(store: SessionStore) -> None:
    """What the golden files hold. A new format writes its own with
    `python tests/server/store/golden/write.py` and the older ones stay."""
    await make(store, fast=b"fast 0", level=b"level 0")
    lease = await store.acquire(KEY, "a", 1)
    await store.commit(
        lease,
        Commit(
            expected_revision=1,
            nonce="one",
            version=1,
            summary=b"one",
            put_blobs={"level": b"level 1"},
            records=[Record("turn", b"first"), Record("learn", b"second")],
            reply=StoredReply(
                request_id="r", body_digest=b"body", payload=b"answer", expires_at=4e9
            ),
        ),
    )
    await store.rollback(
        lease,
        expected_revision=2,
        nonce="two",
        to_version=0,
        record=Record("rollback", b"0"),
    )
    await store.fork(KEY, SessionKey("ada", "copy"), version=1)
    await store.save_job(
        lease, request=b"asked", progress=b"half", put_blobs={"level": b"level 0", "new": b"made"}
    )


@pytest.mark.parametrize("golden", sorted(GOLDEN.glob("*.db.gz")), ids=lambda path: path.name)
async def test_every_format_ever_written_opens(golden: Path, tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(gzip.decompress(golden.read_bytes()))
    async with SQLiteStore(path) as store:
        head = await store.head(KEY)
        assert (head.revision, head.version, head.parent_version) == (3, 2, 0)
        assert (head.fingerprint, head.policy, head.summary) == ("f", "p", b"")
        assert await store.read_blobs(KEY) == {"fast": b"fast 0", "level": b"level 0"}
        assert await store.read_blobs(KEY, ["level"], version=1) == {"level": b"level 1"}
        assert await store.read_log(KEY) == [
            LogRecord(1, "turn", b"first"),
            LogRecord(2, "learn", b"second"),
            LogRecord(3, "rollback", b"0"),
        ]
        reply = await store.find_reply(KEY, "r")
        assert reply
        assert (reply.body_digest, reply.payload) == (b"body", b"answer")
        copy = await store.head(SessionKey("ada", "copy"))
        assert (copy.version, copy.log_seq, copy.summary) == (1, 2, b"one")
        assert await store.check_integrity() == []
        if golden.name in ("store_v1.db.gz", "store_v2.db.gz"):
            assert await store.jobs() == []
        else:
            job, made = await store.read_job(KEY)
            assert (job.request, job.progress) == (b"asked", b"half")
            assert made == {"level": b"level 0", "new": b"made"}
        # And it can be written to.
        lease = await store.acquire(KEY, "b", 1)
        await store.commit(lease, change(3, version=2, new=b"new"))
        await store.end_job(lease)
        await store.save_job(lease, request=b"other", progress=b"")
        assert await store.check_integrity() == []


def test_there_is_a_golden_file_of_this_format() -> None:
    assert (GOLDEN / f"store_v{SCHEMA_VERSION}.db.gz").exists()


async def test_only_the_owner_may_read(tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "store.db") as store:
        await make(store)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    names = ("store.db", "store.db-wal", "store.db-shm", "store.db-reserve")
    assert modes == dict.fromkeys(names, 0o600)


async def test_memory_keeps_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with SQLiteStore(":memory:") as store:
        await make(store, a=b"a")
        lease = await store.acquire(KEY, "a", 1)
        await store.commit(lease, change(1, a=b"b"))
        assert await store.read_blobs(KEY) == {"a": b"b"}
        await store.delete(KEY)
        assert await store.check_integrity() == []
    assert list(tmp_path.iterdir()) == []


async def test_erasing_leaves_no_trace_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with SQLiteStore(path) as store:
        await make(store, level=b"SECRET" * 10_000, small=b"SECRET small")
        lease = await store.acquire(KEY, "a", 1)
        await store.commit(lease, change(1, level=b"SECRET" * 9_000))
        await store.delete(KEY)
        left = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"SECRET" not in left
    assert b"notes" not in left


@pytest.mark.parametrize("_again", range(10))
async def test_many_may_create_the_file_at_once(tmp_path: Path, _again: int) -> None:
    stores = [SQLiteStore(tmp_path / "store.db") for _ in range(6)]
    await asyncio.gather(*(store.open() for store in stores))
    await make(stores[0], a=b"a")
    for store in stores:
        assert (await store.head(KEY)).revision == 1
        await store.close()


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0garbage"])
async def test_what_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(content)
    with pytest.raises(CorruptStoreError, match=r"store\.db .* restore a backup"):
        await SQLiteStore(path).open()
    assert path.read_bytes() == content


async def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE bookmarks (url)")
    connection.close()
    content = path.read_bytes()
    with pytest.raises(CorruptStoreError, match="another program"):
        await SQLiteStore(path).open()
    assert path.read_bytes() == content


async def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with SQLiteStore(path):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(StoreVersionError, match="newer"):
        await SQLiteStore(path).open()


@pytest.mark.parametrize("sound_bytes", [PAGE_BYTES, 16 * PAGE_BYTES])
async def test_damage_inside_the_file_is_reported(tmp_path: Path, sound_bytes: int) -> None:
    path = tmp_path / "store.db"
    async with SQLiteStore(path) as store:
        await make(store, level=b"l" * 100_000)
    content = path.read_bytes()
    path.write_bytes(content[:sound_bytes] + b"\xff" * len(content[sound_bytes:]))
    # When it is opened, or when what is damaged is read.
    with pytest.raises(CorruptStoreError, match=r"store\.db"):
        async with SQLiteStore(path) as store:
            await store.read_blobs(KEY)


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match="missing"):
        await SQLiteStore(tmp_path / "missing" / "store.db").open()


@pytest.mark.parametrize("limit", ["max_page_count = 20", "query_only = ON"])
async def test_without_room_reads_go_on(tmp_path: Path, limit: str) -> None:
    path = tmp_path / "store.db"
    async with SQLiteStore(path) as store:
        await make(store, a=b"a")
        lease = await store.acquire(KEY, "a", 60)
        await store._run(lambda connection: connection.execute(f"PRAGMA {limit}").fetchall())
        large = change(1, a=b"x" * 2_000_000)
        with pytest.raises(StoreFullError):
            await store.commit(lease, large)
        assert (await store.head(KEY)).revision == 1
        assert await store.read_blobs(KEY) == {"a": b"a"}
        assert await store.read_log(KEY) == []
        for pragma in ("max_page_count = 1000000", "query_only = OFF"):
            await store._run(lambda connection, p=pragma: connection.execute(f"PRAGMA {p}"))
        await store.commit(lease, large)
        assert await store.check_integrity() == []


async def test_waiting_for_another_process_does_not_hold_the_loop(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with SQLiteStore(path, busy_seconds=0.2) as store:
        await make(store)
        lease = await store.acquire(KEY, "a", 60)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(store.commit(lease, change(1)))
        ticks = 0
        while not waiting.done():
            await asyncio.sleep(0.01)
            ticks += 1
        assert ticks > 5
        with pytest.raises(StoreUnavailableError, match="locked by another process"):
            await waiting
        other.execute("ROLLBACK")
        other.close()
        assert (await store.commit(lease, change(1))).revision == 2
