"""Commits: what they change, when they are refused, and what replies remember."""

import asyncio

import pytest
from store_harness import KEY, Harness, change, make

from server.store.base import (
    AlreadyExistsError,
    Commit,
    CorruptBlobError,
    LogRecord,
    NotFoundError,
    Record,
    SessionStore,
    StaleRevisionError,
    StoredReply,
)


def reply(request_id: str, expires_at: float) -> StoredReply:
    return StoredReply(
        request_id=request_id, body_digest=b"digest", payload=b"answer", expires_at=expires_at
    )


async def test_a_commit_changes_what_it_names(harness: Harness, store: SessionStore) -> None:
    made = await make(store)
    lease = await store.acquire(KEY, "a", 10)
    harness.now += 1
    head = await store.commit(
        lease,
        change(
            made,
            put_blobs={"fast": b"f1", "window": b"w"},
            drop_blobs=frozenset({"level", "never there"}),
            records=[Record("turn", b"1"), Record("turn", b"2")],
            summary=b"new",
        ),
    )
    assert head == await store.head(KEY)
    assert (head.revision, head.version, head.log_seq) == (2, 0, 2)
    assert (head.summary, head.update_time, head.create_time) == (
        b"new",
        harness.now,
        harness.now - 1,
    )
    assert (head.fingerprint, head.policy) == (made.fingerprint, made.policy)
    assert await store.read_blobs(KEY) == {"fast": b"f1", "window": b"w"}
    assert await store.read_log(KEY) == [LogRecord(1, "turn", b"1"), LogRecord(2, "turn", b"2")]

    head = await store.commit(
        lease, change(head, fingerprint="base-2", policy="calm", display_name="Renamed")
    )
    assert (head.fingerprint, head.policy, head.display_name) == ("base-2", "calm", "Renamed")


async def test_a_new_version_keeps_the_state_it_makes(store: SessionStore) -> None:
    head = await make(store)
    lease = await store.acquire(KEY, "a", 10)
    head = await store.commit(
        lease, change(head, version=1, put_blobs={"level": b"l1"}, records=[Record("turn", b"1")])
    )
    assert (head.version, head.parent_version) == (1, 0)
    head = await store.commit(lease, change(head, put_blobs={"level": b"later"}))
    zero, one = await store.versions(KEY)
    assert (zero.version, zero.parent_version, zero.log_seq) == (0, None, 0)
    assert (one.version, one.parent_version, one.log_seq) == (1, 0, 1)
    assert (await store.read_blobs(KEY, ["level"], version=0)) == {"level": b"l0"}
    assert (await store.read_blobs(KEY, ["level"], version=1)) == {"level": b"l1"}
    assert (await store.read_blobs(KEY, ["level"])) == {"level": b"later"}

    head = await store.commit(lease, change(head, version=2, parent_version=0))
    assert head.parent_version == 0


async def test_stale_commits_change_nothing(store: SessionStore) -> None:
    made = await make(store)
    lease = await store.acquire(KEY, "a", 10)
    head = await store.commit(lease, change(made))
    with pytest.raises(StaleRevisionError) as stale:
        await store.commit(
            lease, change(made, put_blobs={"x": b"x"}, records=[Record("turn", b"lost")])
        )
    assert (stale.value.expected, stale.value.actual) == ("1", "2")
    with pytest.raises(StaleRevisionError):
        await store.commit(lease, change(head, expected_revision=3))
    assert await store.head(KEY) == head
    assert await store.read_log(KEY) == []


@pytest.mark.parametrize("version", [0, 2, 4])
async def test_versions_do_not_skip(store: SessionStore, version: int) -> None:
    head = await make(store)
    lease = await store.acquire(KEY, "a", 10)
    head = await store.commit(lease, change(head, version=1))
    if version == 2:
        await store.commit(lease, change(head, version=version))
        return
    with pytest.raises(ValueError, match="does not follow"):
        await store.commit(lease, change(head, version=version, put_blobs={"x": b"x"}))
    assert await store.head(KEY) == head


async def test_the_same_nonce_is_applied_once(harness: Harness, store: SessionStore) -> None:
    made = await make(store)
    lease = await store.acquire(KEY, "a", 10)
    first = change(
        made,
        version=1,
        put_blobs={"fast": b"f1"},
        records=[Record("turn", b"1")],
        reply=reply("r", harness.now + 60),
    )
    head = await store.commit(lease, first)
    assert await store.commit(lease, first) == head
    # Durable is durable, also for one who has lost the lease since.
    await store.release(lease)
    await store.acquire(KEY, "b", 10)
    assert await store.commit(lease, first) == head
    assert await store.head(KEY) == head
    assert len(await store.read_log(KEY)) == 1


async def test_an_old_nonce_is_stale(store: SessionStore) -> None:
    made = await make(store)
    lease = await store.acquire(KEY, "a", 10)
    first = change(made, records=[Record("turn", b"1")])
    head = await store.commit(lease, first)
    head = await store.commit(lease, change(head))
    with pytest.raises(StaleRevisionError):
        await store.commit(lease, first)
    assert await store.head(KEY) == head


async def test_of_two_commits_at_once_one_wins(harness: Harness, store: SessionStore) -> None:
    made = await make(store)
    lease = await store.acquire(KEY, "a", 10)
    async with harness.connect() as other:
        results = await asyncio.gather(
            *(
                handle.commit(lease, change(made, records=[Record("turn", b"x")]))
                for handle in (store, other) * 4
            ),
            return_exceptions=True,
        )
    assert sum(isinstance(result, StaleRevisionError) for result in results) == 7
    assert len(await store.read_log(KEY)) == 1


async def test_a_cancelled_commit_is_whole_or_not_there(store: SessionStore) -> None:
    head = await make(store)
    lease = await store.acquire(KEY, "a", 10)
    for turns in range(20):
        wanted = change(head, put_blobs={"fast": b"%d" % turns}, records=[Record("turn", b"x")])
        task = asyncio.create_task(store.commit(lease, wanted))
        for _ in range(turns % 3):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        # Whatever became of it, trying again is right.
        head = await store.commit(lease, wanted)
        assert head.log_seq == turns + 1
    assert len(await store.read_log(KEY)) == 20


async def test_a_commit_is_whole_of_itself(store: SessionStore) -> None:
    with pytest.raises(ValueError, match="nonce"):
        Commit(expected_revision=1, nonce="", version=0, summary=b"")
    with pytest.raises(ValueError, match="both"):
        Commit(
            expected_revision=1,
            nonce="n",
            version=0,
            summary=b"",
            put_blobs={"a": b""},
            drop_blobs=frozenset({"a"}),
        )


async def test_blobs_are_read_by_name(store: SessionStore) -> None:
    await make(store, blobs={"a": b"same", "b": b"same", "empty": b""})
    assert await store.read_blobs(KEY) == {"a": b"same", "b": b"same", "empty": b""}
    assert await store.read_blobs(KEY, ["empty"]) == {"empty": b""}
    assert await store.read_blobs(KEY, []) == {}
    with pytest.raises(NotFoundError):
        await store.read_blobs(KEY, ["a", "c"])
    with pytest.raises(NotFoundError):
        await store.read_blobs(KEY, version=1)


async def test_large_blobs_come_back(store: SessionStore) -> None:
    large = bytes(range(256)) * 4096 * 9  # 9 MiB
    await make(store, blobs={"large": large})
    assert await store.read_blobs(KEY) == {"large": large}


async def test_damage_is_found_on_reading(harness: Harness) -> None:
    async with harness.connect() as store:
        await make(store)
    harness.damage_blobs()
    async with harness.connect() as store:
        with pytest.raises(CorruptBlobError) as damaged:
            await store.read_blobs(KEY, ["level"])
        assert damaged.value.name == "level"
        assert await store.check_integrity()
        assert (await store.head(KEY)).revision == 1


async def test_the_log_is_read_in_pieces(store: SessionStore) -> None:
    head = await make(store)
    lease = await store.acquire(KEY, "a", 10)
    await store.commit(lease, change(head, records=[Record("n", b"%d" % n) for n in range(1, 8)]))
    assert [r.seq for r in await store.read_log(KEY, limit=3)] == [1, 2, 3]
    assert [r.seq for r in await store.read_log(KEY, after_seq=5)] == [6, 7]
    assert await store.read_log(KEY, after_seq=7) == []


async def test_replies_last_until_they_expire(harness: Harness, store: SessionStore) -> None:
    head = await make(store)
    lease = await store.acquire(KEY, "a", 100)
    stored = reply("r", harness.now + 60)
    head = await store.commit(lease, change(head, reply=stored))
    assert await store.find_reply(KEY, "r") == stored
    assert await store.find_reply(KEY, "other") is None

    again = change(head, reply=reply("r", harness.now + 90), put_blobs={"x": b"x"})
    with pytest.raises(AlreadyExistsError):
        await store.commit(lease, again)
    assert await store.head(KEY) == head
    harness.now += 60
    assert await store.find_reply(KEY, "r") is None
    await store.commit(lease, again)
    assert await store.find_reply(KEY, "r") == again.reply
