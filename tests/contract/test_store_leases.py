"""Leases: one owner at a time, and nobody who held the session before."""

import pytest
from store_harness import KEY, Harness, change, make

from server.store.base import (
    LeaseHeldError,
    LeaseLostError,
    NotFoundError,
    SessionKey,
    SessionStore,
)


async def test_another_owner_waits_for_expiry(harness: Harness, store: SessionStore) -> None:
    await make(store)
    first = await store.acquire(KEY, "a", 10)
    assert first.expires_at == harness.now + 10
    harness.now += 4
    with pytest.raises(LeaseHeldError) as held:
        await store.acquire(KEY, "b", 10)
    assert (held.value.owner, held.value.remaining_seconds) == ("a", 6)
    harness.now += 6
    second = await store.acquire(KEY, "b", 10)
    assert second.fence > first.fence


async def test_release_lets_others_in_at_once(store: SessionStore) -> None:
    head = await make(store)
    lease = await store.acquire(KEY, "a", 10)
    await store.release(lease)
    with pytest.raises(LeaseLostError):
        await store.commit(lease, change(head))
    with pytest.raises(LeaseLostError):
        await store.renew(lease, 10)
    other = await store.acquire(KEY, "b", 10)
    await store.release(lease)  # Not its own any more: no effect.
    await store.commit(other, change(head))


async def test_the_same_owner_gets_a_new_fence(store: SessionStore) -> None:
    head = await make(store)
    old = await store.acquire(KEY, "a", 10)
    new = await store.acquire(KEY, "a", 10)
    assert new.fence > old.fence
    with pytest.raises(LeaseLostError):
        await store.commit(old, change(head))
    await store.commit(new, change(head))


async def test_a_holder_from_before_is_refused(harness: Harness, store: SessionStore) -> None:
    head = await make(store)
    paused = await store.acquire(KEY, "a", 10)
    harness.now += 11
    taken = await store.acquire(KEY, "b", 10)
    await store.release(taken)  # The session is free again, and yet:
    with pytest.raises(LeaseLostError):
        await store.commit(paused, change(head))
    with pytest.raises(LeaseLostError):
        await store.renew(paused, 10)
    assert await store.head(KEY) == head


async def test_expiry_alone_loses_no_work(harness: Harness, store: SessionStore) -> None:
    head = await make(store)
    lease = await store.acquire(KEY, "a", 10)
    harness.now += 11
    head = await store.commit(lease, change(head))
    renewed = await store.renew(lease, 10)
    assert (renewed.fence, renewed.expires_at) == (lease.fence, harness.now + 10)
    with pytest.raises(LeaseHeldError):
        await store.acquire(KEY, "b", 10)
    await store.commit(renewed, change(head))


async def test_fences_outlive_their_session(store: SessionStore) -> None:
    await make(store)
    ghost = await store.acquire(KEY, "a", 10)
    await store.delete(KEY)
    with pytest.raises(NotFoundError):
        await store.renew(ghost, 10)
    await store.release(ghost)

    head = await make(store)
    with pytest.raises(LeaseLostError):
        await store.commit(ghost, change(head))
    assert (await store.acquire(KEY, "a", 10)).fence > ghost.fence
    with pytest.raises(LeaseLostError):
        await store.commit(ghost, change(head))


async def test_leases_of_two_sessions_do_not_meet(store: SessionStore) -> None:
    other = SessionKey("ada", "other")
    await make(store)
    await make(store, other)
    first = await store.acquire(KEY, "a", 10)
    second = await store.acquire(other, "b", 10)
    assert first.fence != second.fence


async def test_a_fork_is_free(store: SessionStore) -> None:
    await make(store)
    await store.acquire(KEY, "a", 10)
    copy = SessionKey("ada", "copy")
    await store.fork(KEY, copy)
    await store.acquire(copy, "b", 10)


async def test_handles_see_each_others_leases(harness: Harness, store: SessionStore) -> None:
    head = await make(store)
    async with harness.connect() as other:
        lease = await store.acquire(KEY, "a", 10)
        with pytest.raises(LeaseHeldError):
            await other.acquire(KEY, "b", 10)
        committed = await store.commit(lease, change(head))
        assert await other.head(KEY) == committed
