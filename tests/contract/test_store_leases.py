"""Leases: one owner at a time, and nobody who held the session before."""

import pytest
from store_harness import KEY, Harness, change, make

from server.store.base import (
    MAX_LEASE_SECONDS,
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


@pytest.mark.parametrize("back_seconds", [MAX_LEASE_SECONDS, 3600, 86_400, 20 * 365 * 86_400])
async def test_a_clock_set_back_voids_what_ends_too_far_ahead(
    harness: Harness, store: SessionStore, back_seconds: float
) -> None:
    head = await make(store)
    old = await store.acquire(KEY, "a", 10)
    harness.now -= back_seconds
    new = await store.acquire(KEY, "b", 10)
    assert (new.fence > old.fence, new.expires_at) == (True, harness.now + 10)
    # Whoever was passed over loses nothing but the session.
    with pytest.raises(LeaseLostError):
        await store.commit(old, change(head))
    await store.commit(new, change(head))


@pytest.mark.parametrize("back_seconds", [1, 30, MAX_LEASE_SECONDS - 20])
async def test_a_lease_lasts_no_longer_than_at_first_sight(
    harness: Harness, store: SessionStore, back_seconds: float
) -> None:
    await make(store)
    await store.acquire(KEY, "a", 10)
    with pytest.raises(LeaseHeldError) as held:
        await store.acquire(KEY, "b", 10)
    assert held.value.remaining_seconds == 10
    harness.now -= back_seconds
    harness.ticks += 9
    with pytest.raises(LeaseHeldError) as held:
        await store.acquire(KEY, "b", 10)
    assert held.value.remaining_seconds == 1
    harness.ticks += 1
    await store.acquire(KEY, "b", 10)


async def test_a_clock_that_goes_back_again_and_again_holds_nobody_up(
    harness: Harness, store: SessionStore
) -> None:
    await make(store)
    await store.acquire(KEY, "a", 10)
    for _ in range(10):
        with pytest.raises(LeaseHeldError):
            await store.acquire(KEY, "b", 10)
        harness.now -= 5
        harness.ticks += 1
    await store.acquire(KEY, "b", 10)


async def test_a_lease_that_is_renewed_is_waited_for_anew(
    harness: Harness, store: SessionStore
) -> None:
    await make(store)
    lease = await store.acquire(KEY, "a", 10)
    for _ in range(3):
        with pytest.raises(LeaseHeldError):
            await store.acquire(KEY, "b", 10)
        harness.ticks += 8
        harness.now += 8
        lease = await store.renew(lease, 10)
    # So is one that comes after it.
    await store.release(lease)
    await store.acquire(KEY, "c", 10)
    harness.ticks += 9
    with pytest.raises(LeaseHeldError) as held:
        await store.acquire(KEY, "b", 10)
    assert (held.value.owner, held.value.remaining_seconds) == ("c", 10)


@pytest.mark.parametrize("seconds", [0, -1, MAX_LEASE_SECONDS + 1, 3600.0])
async def test_no_lease_is_longer_than_the_longest(store: SessionStore, seconds: float) -> None:
    await make(store)
    with pytest.raises(ValueError, match="at most 120 s"):
        await store.acquire(KEY, "a", seconds)
    lease = await store.acquire(KEY, "a", MAX_LEASE_SECONDS)
    with pytest.raises(ValueError, match="at most 120 s"):
        await store.renew(lease, seconds)


async def test_a_lease_of_an_owner_that_has_ended_holds_nobody_up(store: SessionStore) -> None:
    head = await make(store)
    lease = await store.acquire(KEY, "a", 10)
    for other in ("", "c", "b"):
        with pytest.raises(LeaseHeldError):
            await store.acquire(KEY, "b", 10, ended_owner=other)
    taken = await store.acquire(KEY, "b", 10, ended_owner="a")
    assert taken.fence > lease.fence
    with pytest.raises(LeaseLostError):
        await store.commit(lease, change(head))
    # Only while it is that owner's.
    with pytest.raises(LeaseHeldError):
        await store.acquire(KEY, "c", 10, ended_owner="a")
    await store.commit(taken, change(head))


async def test_the_words_of_a_held_lease(store: SessionStore) -> None:
    await make(store)
    await store.acquire(KEY, "process 7 on host|boot|namespace|7|1|random", 10)
    with pytest.raises(LeaseHeldError) as held:
        await store.acquire(KEY, "b", 10)
    assert held.value.holder == "process 7 on host"
    said = str(held.value)
    assert "held by another server (process 7 on host) for another 10.0 s" in said
    assert "random" not in said
