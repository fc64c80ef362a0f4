"""Sessions as a whole: create, head, list, delete."""

import asyncio
import hashlib

import pytest
from store_harness import KEY, Harness, change, make

from server.store.base import (
    AlreadyExistsError,
    BlobRef,
    NotFoundError,
    Record,
    SessionKey,
    SessionStore,
    StaleRevisionError,
    StoreUnavailableError,
)


async def test_new_session_is_at_its_beginning(harness: Harness, store: SessionStore) -> None:
    made = await make(store, display_name="Notes")
    assert made == await store.head(KEY)
    assert (made.revision, made.version, made.parent_version, made.log_seq) == (1, 0, None, 0)
    assert (made.fingerprint, made.policy, made.display_name) == ("base-1", "default", "Notes")
    assert made.create_time == made.update_time == harness.now
    assert made.blobs == {
        name: BlobRef(hashlib.sha256(data).hexdigest(), 2)
        for name, data in {"fast": b"f0", "level": b"l0"}.items()
    }
    assert made.state_bytes == 4
    assert await store.read_log(KEY) == []
    assert [info.version for info in await store.versions(KEY)] == [0]


async def test_a_name_is_taken_once(store: SessionStore) -> None:
    first = await make(store)
    with pytest.raises(AlreadyExistsError):
        await make(store, blobs={"other": b"x"})
    assert await store.head(KEY) == first


async def test_unknown_session_is_not_found(store: SessionStore) -> None:
    for call in (
        store.head(KEY),
        store.delete(KEY),
        store.acquire(KEY, "a", 1),
        store.read_blobs(KEY),
        store.read_log(KEY),
        store.find_reply(KEY, "r"),
        store.versions(KEY),
        store.collect(KEY, 1),
        store.fork(KEY, SessionKey("ada", "copy")),
    ):
        with pytest.raises(NotFoundError):
            await call


async def test_list_pages_in_the_order_of_names(store: SessionStore) -> None:
    names = ["Z", "a", "a-1", "a.b", "b"]
    for name in reversed(names):
        await make(store, SessionKey("ada", name))
    await make(store, SessionKey("bob", "a0"))

    listed: list[str] = []
    token, pages = "", 0
    while pages == 0 or token:
        page, token = await store.list_sessions("ada", page_size=2, page_token=token)
        listed += [head.key.session for head in page]
        pages += 1
    assert listed == names
    assert pages == 3
    assert await store.list_sessions("ada", page_size=5) == (
        [await store.head(SessionKey("ada", name)) for name in names],
        "",
    )
    assert await store.list_sessions("nobody") == ([], "")


async def test_list_goes_on_when_the_last_name_was_deleted(store: SessionStore) -> None:
    for name in "abc":
        await make(store, SessionKey("ada", name))
    _, token = await store.list_sessions("ada", page_size=1)
    await store.delete(SessionKey("ada", "a"))
    page, _ = await store.list_sessions("ada", page_size=1, page_token=token)
    assert [head.key.session for head in page] == ["b"]


async def test_delete_leaves_nothing_and_a_namesake_inherits_nothing(store: SessionStore) -> None:
    old = await make(store)
    lease = await store.acquire(KEY, "a", 10)
    await store.commit(lease, change(old, records=[Record("turn", b"x")]))
    await store.delete(KEY)
    with pytest.raises(NotFoundError):
        await store.head(KEY)

    new = await make(store, blobs={})
    assert new.incarnation != old.incarnation
    assert new.etag != old.etag
    assert await store.read_log(KEY) == []
    assert await store.read_blobs(KEY) == {}


async def test_delete_guards_by_etag(store: SessionStore) -> None:
    made = await make(store)
    lease = await store.acquire(KEY, "a", 10)
    head = await store.commit(lease, change(made))
    with pytest.raises(StaleRevisionError):
        await store.delete(KEY, etag=made.etag)
    await store.delete(KEY, etag=head.etag)
    await make(store)
    with pytest.raises(StaleRevisionError):
        await store.delete(KEY, etag=made.etag)


async def test_delete_spares_what_a_fork_shares(store: SessionStore) -> None:
    await make(store)
    copy = SessionKey("ada", "copy")
    await store.fork(KEY, copy)
    await store.delete(KEY)
    assert await store.read_blobs(copy) == {"fast": b"f0", "level": b"l0"}


async def test_delete_user_takes_all_of_one_user(store: SessionStore) -> None:
    other = SessionKey("bob", "notes")
    await make(store, other)
    await make(store)
    await store.fork(KEY, SessionKey("ada", "copy"))
    assert await store.delete_user("ada") == 2
    assert await store.delete_user("ada") == 0
    assert await store.list_sessions("ada") == ([], "")
    assert await store.read_blobs(other) == {"fast": b"f0", "level": b"l0"}


async def test_misuse_is_a_value_error(store: SessionStore) -> None:
    await make(store)
    for call in (
        store.list_sessions("ada", page_size=0),
        store.list_sessions("ada", page_size=1001),
        store.read_log(KEY, limit=0),
        store.acquire(KEY, "a", 0),
        store.acquire(KEY, "", 1),
        store.collect(KEY, 0),
        store.fork(KEY, SessionKey("bob", "copy")),
    ):
        with pytest.raises(ValueError, match=r"must|requires|cannot|allowed"):
            await call


async def test_what_was_written_is_there_after_reopening(harness: Harness) -> None:
    async with harness.connect() as store:
        made = await make(store)
    async with harness.connect() as store:
        assert await store.head(KEY) == made
        assert await store.read_blobs(KEY) == {"fast": b"f0", "level": b"l0"}


async def test_a_closed_store_says_so(harness: Harness) -> None:
    store = harness.connect()
    with pytest.raises(StoreUnavailableError):
        await store.head(KEY)
    await store.open()
    await store.close()
    await store.close()
    with pytest.raises(StoreUnavailableError):
        await store.head(KEY)


async def test_bytes_are_those_of_blobs_and_logs(harness: Harness, store: SessionStore) -> None:
    each = harness.overhead_bytes
    made = await make(store, blobs={"a": b"12345", "b": b"12345", "c": b"1"})
    assert (made.stored_bytes, made.state_bytes) == (6 + 2 * each, 11)
    assert await store.user_bytes("ada") == 6 + 2 * each
    lease = await store.acquire(KEY, "a", 10)
    records = [Record("turn", b"xyz"), Record("turn", b"")]
    head = await store.commit(
        lease, change(made, version=1, put_blobs={"c": b"22"}, records=records)
    )
    assert head.stored_bytes == await store.user_bytes("ada") == 5 + 1 + 2 + 3 + 5 * each
    # A fork shares its blobs and has a log of its own.
    fork = await store.fork(KEY, SessionKey("ada", "copy"))
    assert fork.stored_bytes == 5 + 2 + 3 + 4 * each
    assert await store.user_bytes("ada") == 11 + 3 + 7 * each
    await store.save_job(lease, request=b"r", progress=b"p", put_blobs={"a": b"1234567", "b": b"1"})
    assert (await store.head(KEY)).stored_bytes == 11 + 7 + 6 * each
    await store.end_job(lease)
    await store.collect(KEY, 1)
    assert (await store.head(KEY)).stored_bytes == 11 + 5 * each  # the parent is kept
    await store.delete(KEY)
    assert await store.user_bytes("ada") == 10 + 4 * each
    assert await store.user_bytes("nobody") == 0


async def test_sessions_are_counted_by_their_base_model(store: SessionStore) -> None:
    assert await store.fingerprints() == {}
    for user, name, base in (("ada", "1", "x"), ("ada", "2", "y"), ("bob", "1", "x")):
        await make(store, SessionKey(user, name), fingerprint=base)
    assert await store.fingerprints() == {"x": 2, "y": 1}
    assert sum((await store.fingerprints(limit=2)).values()) == 2
    lease = await store.acquire(SessionKey("ada", "2"), "owner", 60)
    head = await store.head(SessionKey("ada", "2"))
    await store.commit(lease, change(head, fingerprint="x"))
    await store.delete(SessionKey("bob", "1"))
    assert await store.fingerprints() == {"x": 2}
    with pytest.raises(ValueError, match="limit"):
        await store.fingerprints(limit=0)


async def test_a_users_sessions_are_counted(store: SessionStore) -> None:
    assert await store.user_sessions("ada") == 0
    for name in ("one", "two"):
        await make(store, SessionKey("ada", name))
    await make(store, SessionKey("bob", "one"))
    assert await store.user_sessions("ada") == 2
    await store.delete(SessionKey("ada", "one"))
    assert await store.user_sessions("ada") == 1
    await store.delete_user("ada")
    assert (await store.user_sessions("ada"), await store.user_sessions("bob")) == (0, 1)


async def test_a_bucket_empties_and_fills(harness: Harness, store: SessionStore) -> None:
    async def draw(amount: float, user: str = "ada") -> float:
        return await store.draw(user, amount, capacity=60, per_second=0.5)

    assert await draw(0) == 60
    assert await draw(20.5) == 39.5
    assert await draw(100) == -60.5  # what was not known before is owed
    assert await draw(0, "bob") == 60
    harness.now += 121
    assert await draw(0) == 0
    harness.now -= 50  # a clock that was set back refills nothing, and takes nothing away
    assert await draw(0) == 0
    harness.now += 1000
    assert await draw(1) == 59
    await make(store)
    await store.delete_user("ada")
    assert await draw(0) == 59


async def test_no_draw_is_lost_among_many_at_once(store: SessionStore) -> None:
    left = await asyncio.gather(
        *(store.draw("ada", 1, capacity=100, per_second=1e-9) for _ in range(50))
    )
    assert min(left) == pytest.approx(50)
    assert len({round(each) for each in left}) == 50


@pytest.mark.parametrize("room_bytes", [0, 1, 20 << 20])
async def test_asking_whether_writes_are_taken_changes_nothing(
    store: SessionStore, room_bytes: int
) -> None:
    head = await make(store)
    await store.check_writable(room_bytes)
    assert await store.head(KEY) == head
