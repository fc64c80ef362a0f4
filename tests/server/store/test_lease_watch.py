"""Leases of others as a process remembers them: bounded, and by its own clock."""

from __future__ import annotations

import pytest

from server.store.leases import MAX_LEASE_SECONDS, LeaseWatch
from server.store.values import SessionKey


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("ahead", [-1e9, -1.0, 0.0, MAX_LEASE_SECONDS + 1, 3600.0, 1e12])
def test_what_has_ended_or_ends_too_far_ahead_is_void(ahead: float) -> None:
    watch = LeaseWatch(Clock())
    assert watch.remaining_seconds(SessionKey("a", "b"), 1, 5e8 + ahead, 5e8) == 0


def test_only_leases_that_may_last_are_remembered() -> None:
    clock = Clock()
    watch = LeaseWatch(clock)
    for number in range(20_000):
        clock.now += 1
        key = SessionKey("ada", f"s{number}")
        assert watch.remaining_seconds(key, number, 60.0, 30.0) == 30
    # Those of a bit more than the longest lease, and what had not been swept yet.
    assert len(watch._seen) <= 1024 + 2 * MAX_LEASE_SECONDS


def test_a_memory_that_is_swept_keeps_those_that_are_waited_for() -> None:
    clock = Clock()
    watch = LeaseWatch(clock)
    waited_for = SessionKey("ada", "notes")
    assert watch.remaining_seconds(waited_for, 1, 60.0, 0.0) == 60
    for number in range(3000):
        clock.now += 0.01
        watch.remaining_seconds(SessionKey("bob", f"s{number}"), 2, 60.0, 0.0)
    assert watch.remaining_seconds(waited_for, 1, 60.0, 0.0) == pytest.approx(30)
