"""Versions: rolling back, forking, forgetting."""

import pytest
from store_harness import KEY, Harness, change, make, rollback

from server.store.base import (
    AlreadyExistsError,
    Head,
    Lease,
    LeaseLostError,
    NotFoundError,
    Record,
    SessionKey,
    SessionStore,
    SnapshotExistsError,
    StaleRevisionError,
    StoredReply,
)

COPY = SessionKey("ada", "copy")


async def grow(store: SessionStore, versions: int) -> tuple[Lease, Head]:
    """A session with versions 0 to `versions`; level and log name the version."""
    head = await make(store)
    lease = await store.acquire(KEY, "a", 100)
    for version in range(1, versions + 1):
        head = await store.commit(
            lease,
            change(
                head,
                version=version,
                put_blobs={"level": b"l%d" % version},
                summary=b"s%d" % version,
                records=[Record("learn", b"%d" % version)],
            ),
        )
    return lease, head


async def test_rollback_brings_a_state_back_under_a_new_number(store: SessionStore) -> None:
    lease, head = await grow(store, 3)
    head = await store.commit(
        lease, change(head, put_blobs={"window": b"w"}, fingerprint="base-2", policy="calm")
    )
    head = await rollback(store, lease, head, 1)
    assert head == await store.head(KEY)
    assert (head.version, head.parent_version, head.revision) == (4, 1, 6)
    assert (head.fingerprint, head.policy, head.summary) == ("base-1", "default", b"s1")
    assert await store.read_blobs(KEY) == {"fast": b"f0", "level": b"l1"}
    log = await store.read_log(KEY)
    assert [record.payload for record in log] == [b"1", b"2", b"3", b"1"]
    assert log[-1].kind == "rollback"

    # What was left is kept, and can be returned to as well.
    head = await rollback(store, lease, head, 3, summary=b"given")
    assert (head.version, head.parent_version, head.summary) == (5, 3, b"given")
    assert (await store.read_blobs(KEY))["level"] == b"l3"
    head = await store.commit(lease, change(head, version=6))
    assert head.parent_version == 5


async def test_rollback_to_the_present_version_undoes_what_came_after(store: SessionStore) -> None:
    lease, head = await grow(store, 1)
    head = await store.commit(lease, change(head, put_blobs={"fast": b"f9"}))
    head = await rollback(store, lease, head, 1)
    assert head.version == 2
    assert await store.read_blobs(KEY) == {"fast": b"f0", "level": b"l1"}


async def test_rollback_is_guarded_like_a_commit(store: SessionStore) -> None:
    lease, head = await grow(store, 2)
    with pytest.raises(NotFoundError):
        await rollback(store, lease, head, 7)
    with pytest.raises(StaleRevisionError):
        await rollback(store, lease, head, 1, expected_revision=1)
    with pytest.raises(ValueError, match="nonce"):
        await rollback(store, lease, head, 1, nonce="")
    taken = await store.acquire(KEY, "a", 10)
    with pytest.raises(LeaseLostError):
        await rollback(store, lease, head, 1)
    assert await store.head(KEY) == head

    done = await rollback(store, taken, head, 1, nonce="once")
    assert await rollback(store, taken, head, 1, nonce="once") == done
    assert await store.head(KEY) == done


async def test_a_turn_that_was_undone_keeps_its_reply(
    harness: Harness, store: SessionStore
) -> None:
    lease, head = await grow(store, 1)
    stored = StoredReply(
        request_id="r", body_digest=b"d", payload=b"p", expires_at=harness.now + 60
    )
    head = await store.commit(lease, change(head, version=2, reply=stored))
    await rollback(store, lease, head, 1)
    assert await store.find_reply(KEY, "r") == stored


async def test_a_fork_starts_where_its_source_is(store: SessionStore) -> None:
    lease, head = await grow(store, 2)
    head = await store.commit(
        lease,
        change(
            head,
            put_blobs={"fast": b"f9"},
            records=[Record("turn", b"t")],
            summary=b"now",
            display_name="Notes",
        ),
    )
    fork = await store.fork(KEY, COPY)
    assert fork == await store.head(COPY)
    assert (fork.revision, fork.version, fork.parent_version, fork.log_seq) == (1, 2, 1, 3)
    assert (fork.display_name, fork.summary, fork.blobs) == ("Notes", b"now", head.blobs)
    assert fork.incarnation != head.incarnation
    assert await store.read_blobs(COPY) == {"fast": b"f9", "level": b"l2"}
    assert [r.payload for r in await store.read_log(COPY)] == [b"1", b"2", b"t"]
    assert [info.version for info in await store.versions(COPY)] == [2]
    assert await store.head(KEY) == head

    # From here on each goes its own way.
    taken = await store.acquire(COPY, "b", 10)
    fork = await store.commit(taken, change(fork, version=3, put_blobs={"level": b"own"}))
    assert (await store.read_blobs(KEY))["level"] == b"l2"
    fork = await rollback(store, taken, fork, 2)
    assert await store.read_blobs(COPY) == {"fast": b"f9", "level": b"l2"}


async def test_a_fork_of_an_earlier_version(store: SessionStore) -> None:
    lease, head = await grow(store, 3)
    await store.commit(lease, change(head, version=4, fingerprint="base-2"))
    fork = await store.fork(KEY, COPY, version=2)
    assert (fork.version, fork.parent_version, fork.log_seq) == (2, 1, 2)
    assert (fork.fingerprint, fork.summary) == ("base-1", b"s2")
    assert (await store.read_blobs(COPY))["level"] == b"l2"
    assert [record.payload for record in await store.read_log(COPY)] == [b"1", b"2"]


async def test_a_fork_is_refused_whole(store: SessionStore) -> None:
    await grow(store, 1)
    with pytest.raises(AlreadyExistsError):
        await store.fork(KEY, KEY)
    with pytest.raises(NotFoundError):
        await store.fork(KEY, COPY, version=5)
    with pytest.raises(NotFoundError):
        await store.head(COPY)


async def test_collect_keeps_the_newest_and_one_step_back(store: SessionStore) -> None:
    lease, head = await grow(store, 5)
    assert await store.collect(KEY, 3) == 3
    assert [info.version for info in await store.versions(KEY)] == [3, 4, 5]
    assert await store.collect(KEY, 3) == 0
    with pytest.raises(NotFoundError):
        await store.read_blobs(KEY, version=1)
    with pytest.raises(NotFoundError):
        await rollback(store, lease, head, 1)

    head = await rollback(store, lease, head, 3)
    assert await store.collect(KEY, 1) == 2
    assert [info.version for info in await store.versions(KEY)] == [3, 6]
    now = await store.head(KEY)
    assert (now.etag, now.blobs) == (head.etag, head.blobs)
    assert now.stored_bytes < head.stored_bytes
    assert (await store.read_blobs(KEY))["level"] == b"l3"


async def test_collect_spares_what_others_share(store: SessionStore) -> None:
    await grow(store, 3)
    await store.fork(KEY, COPY, version=1)
    assert await store.collect(KEY, 1) == 2
    assert (await store.read_blobs(COPY))["level"] == b"l1"


async def test_a_version_with_a_name_is_kept_until_the_name_is_gone(store: SessionStore) -> None:
    head = await make(store, blobs={"level": b"0"})
    lease = await store.acquire(KEY, "a", 60)
    named = await store.snapshot(KEY, "start")
    assert named.version == 0
    for number in range(1, 5):
        blobs = {"level": b"%d" % number}
        head = await store.commit(lease, change(head, version=number, put_blobs=blobs))
    assert await store.collect(KEY, 1) == 2
    assert [info.version for info in await store.versions(KEY)] == [0, 3, 4]
    assert await store.read_blobs(KEY, version=0) == {"level": b"0"}
    with pytest.raises(SnapshotExistsError):
        await store.snapshot(KEY, "start")
    await store.snapshot(KEY, "now")
    first, token = await store.snapshots(KEY, page_size=1)
    rest, end = await store.snapshots(KEY, page_size=1, page_token=token)
    assert [(each.name, each.version) for each in first + rest] == [("now", 4), ("start", 0)]
    assert end == ""
    copy = await store.fork(KEY, KEY._replace(session="copy"))
    assert await store.snapshots(copy.key) == ([], "")
    await store.delete_snapshot(KEY, "start")
    with pytest.raises(NotFoundError):
        await store.delete_snapshot(KEY, "start")
    assert await store.collect(KEY, 1) == 1
    assert [info.version for info in await store.versions(KEY)] == [3, 4]
    for size in (0, 1001):
        with pytest.raises(ValueError, match="page_size"):
            await store.snapshots(KEY, page_size=size)
    with pytest.raises(ValueError, match="name"):
        await store.snapshot(KEY, "")
