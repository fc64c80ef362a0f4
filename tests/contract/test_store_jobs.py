"""Jobs: long work whose interim results are durable beside the head."""

import pytest
from store_harness import KEY, Harness, change, make, rollback

from server.store.base import (
    AlreadyExistsError,
    CorruptBlobError,
    LeaseLostError,
    NotFoundError,
    SessionKey,
    SessionStore,
)

OTHER = SessionKey("bob", "notes")


async def test_a_job_is_kept_beside_the_head(harness: Harness, store: SessionStore) -> None:
    made = await make(store)
    assert made.job is None
    lease = await store.acquire(KEY, "a", 10)
    begun = await store.save_job(lease, request=b"forget", progress=b"0")
    assert begun.create_time == harness.now
    assert (await store.read_job(KEY)) == (begun, {})
    harness.now += 5
    saved = await store.save_job(
        lease, request=b"forget", progress=b"1", put_blobs={"fast": b"f0", "level": b"half"}
    )
    assert (saved.request, saved.progress, saved.create_time) == (
        b"forget",
        b"1",
        begun.create_time,
    )
    await store.save_job(
        lease,
        request=b"forget",
        progress=b"2",
        put_blobs={"level": b"more"},
        drop_blobs=frozenset({"fast", "never there"}),
    )
    job, blobs = await store.read_job(KEY)
    assert (job.progress, blobs) == (b"2", {"level": b"more"})
    head = await store.head(KEY)
    assert head.job == job
    # Nothing else of the session has changed.
    assert (head.etag, head.version, head.blobs) == (made.etag, made.version, made.blobs)
    assert await store.read_blobs(KEY) == {"fast": b"f0", "level": b"l0"}


async def test_a_commit_ends_the_job_with_its_result(store: SessionStore) -> None:
    head = await make(store)
    lease = await store.acquire(KEY, "a", 10)
    await store.save_job(lease, request=b"r", progress=b"", put_blobs={"level": b"made"})
    head = await store.commit(lease, change(head, put_blobs={"fast": b"f1"}))
    assert head.job is not None
    final = change(head, version=1, put_blobs={"level": b"made"}, ends_job=True)
    head = await store.commit(lease, final)
    assert head.job is None
    assert await store.jobs() == []
    assert await store.read_blobs(KEY) == {"fast": b"f1", "level": b"made"}
    assert await store.commit(lease, final) == head
    with pytest.raises(NotFoundError):
        await store.read_job(KEY)
    assert (await store.commit(lease, change(head, ends_job=True))).job is None  # none is no error


async def test_one_job_at_a_time_and_only_for_the_holder(store: SessionStore) -> None:
    await make(store)
    old = await store.acquire(KEY, "a", 10)
    lease = await store.acquire(KEY, "a", 10)
    with pytest.raises(LeaseLostError):
        await store.save_job(old, request=b"r", progress=b"")
    await store.save_job(lease, request=b"r", progress=b"1")
    with pytest.raises(AlreadyExistsError):
        await store.save_job(lease, request=b"other", progress=b"2")
    with pytest.raises(LeaseLostError):
        await store.end_job(old)
    with pytest.raises(ValueError, match="both"):
        await store.save_job(
            lease, request=b"r", progress=b"", put_blobs={"a": b""}, drop_blobs=frozenset({"a"})
        )
    assert (await store.read_job(KEY))[0].progress == b"1"
    await store.end_job(lease)
    await store.end_job(lease)
    await store.save_job(lease, request=b"other", progress=b"2")
    await store.delete(KEY)
    assert await store.jobs() == []
    for call in (
        store.save_job(lease, request=b"r", progress=b""),
        store.end_job(lease),
        store.read_job(KEY),
    ):
        with pytest.raises(NotFoundError):
            await call


async def test_jobs_are_found_again(harness: Harness) -> None:
    async with harness.connect() as store:
        for key in (KEY, OTHER):
            await make(store, key)
            lease = await store.acquire(key, "a", 10)
            await store.save_job(lease, request=b"r", progress=b"p", put_blobs={"x": b"made"})
            harness.now += 1
    async with harness.connect() as store:
        assert await store.jobs() == [KEY, OTHER]
        assert await store.jobs(limit=1) == [KEY]
        with pytest.raises(ValueError, match="limit"):
            await store.jobs(limit=0)
        assert (await store.read_job(OTHER))[1] == {"x": b"made"}
        assert await store.delete_user("bob") == 1
        assert await store.jobs() == [KEY]
        assert await store.check_integrity() == []
    harness.damage_blobs()
    async with harness.connect() as store:
        with pytest.raises(CorruptBlobError):
            await store.read_job(KEY)


async def test_a_job_stays_behind_when_a_session_is_forked_or_goes_back(
    store: SessionStore,
) -> None:
    head = await make(store)
    lease = await store.acquire(KEY, "a", 10)
    await store.save_job(lease, request=b"r", progress=b"p", put_blobs={"x": b"made"})
    copy = await store.fork(KEY, SessionKey("ada", "copy"))
    assert copy.job is None
    head = await rollback(store, lease, head, 0)
    assert head.job is not None
    assert await store.collect(KEY, 1) == 0
    assert (await store.read_job(KEY))[1] == {"x": b"made"}
