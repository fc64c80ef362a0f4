"""The window is a pure function of the stream, never too long, and keeps its pinned prefix."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hope_runtime.errors import WindowOverflowError
from hope_runtime.session.window import SINK_TOKENS, Window

CAPACITIES = st.integers(16, 64)


def stream(count: int, start: int = 0) -> tuple[int, ...]:
    return tuple(range(start, start + count))


@given(CAPACITIES, st.integers(0, 8), st.lists(st.integers(0, 90), max_size=12))
def test_the_pieces_of_a_stream_do_not_matter(capacity: int, pin: int, sizes: list[int]) -> None:
    start = Window(capacity).pin(stream(pin, 1000))
    window, at = start, 0
    for size in sizes:
        window, at = window.append(stream(size, at)), at + size
    assert window == start.append(stream(at))


@given(CAPACITIES, st.integers(0, 8), st.integers(0, 300))
def test_a_window_is_its_prefix_and_the_end_of_the_stream(
    capacity: int, pin: int, count: int
) -> None:
    window = Window(capacity).pin(stream(pin, 1000)).append(stream(count))
    assert len(window.tokens) <= capacity
    assert window.position == pin + count
    whole = stream(pin, 1000) + stream(count)
    sinks = max(pin, min(SINK_TOKENS, len(whole)))
    assert window.pinned == whole[:sinks]
    assert window.recent == whole[sinks + window.dropped :]
    assert window.dropped % window.half == 0
    if window.dropped:
        assert window.half < len(window.recent) <= 2 * window.half


@given(CAPACITIES)
def test_hops_fall_at_fixed_places(capacity: int) -> None:
    window, hops = Window(capacity), []
    for token in range(400):
        longer = window.append((token,))
        if longer.dropped != window.dropped:
            hops.append(token)
        window = longer
    first = SINK_TOKENS + 2 * window.half
    assert hops == list(range(first, 400, window.half))


def test_a_system_prompt_may_come_after_a_document() -> None:
    window = Window(32).append(stream(40)).pin((7,) * 10)
    assert window.pinned == (*stream(4), *(7,) * 10)
    assert len(window.tokens) <= 32
    assert window.recent == stream(40)[-len(window.recent) :]


def test_more_than_half_of_a_window_cannot_be_pinned() -> None:
    assert len(Window(32).pin(stream(16)).pinned) == 16
    with pytest.raises(WindowOverflowError, match="has 17 tokens, but a window of 32") as caught:
        Window(32).pin(stream(16)).pin((1,))
    assert caught.value.field == "messages"


@given(CAPACITIES, st.integers(SINK_TOKENS, 8), st.integers(0, 120), st.integers(1, 64))
def test_a_prompt_that_fits_is_seen_whole(capacity: int, pin: int, before: int, size: int) -> None:
    window = Window(capacity).pin(stream(pin, 1000)).append(stream(before))
    prompt = stream(size, 5000)
    if size >= max(window.half, window.room):
        with pytest.raises(WindowOverflowError, match=f"has {size} tokens"):
            window.check_fits(size)
    else:
        window.check_fits(size)
        assert window.append(prompt).recent[-size:] == prompt


@given(CAPACITIES, CAPACITIES, st.integers(0, 8), st.integers(0, 200))
def test_a_resized_window_holds_the_same_stream(old: int, new: int, pin: int, count: int) -> None:
    window = Window(old).pin(stream(pin, 1000)).append(stream(count))
    other = window.resized(new)
    assert len(other.tokens) <= new
    assert other.position == window.position
    assert window.pinned[: new // 2] == other.pinned
    assert other.recent == window.recent[len(window.recent) - len(other.recent) :]
    assert other.append(stream(300)).position == window.position + 300
    assert window.resized(old) is window


class WindowMachine(RuleBasedStateMachine):
    """Any order of pinning, reading and resizing keeps the laws."""

    def __init__(self) -> None:
        super().__init__()
        self.window = Window(24)
        self.entered = 0

    @rule(count=st.integers(0, 40))
    def append(self, count: int) -> None:
        self.window = self.window.append(stream(count))
        self.entered += count

    @rule(count=st.integers(1, 6))
    def pin(self, count: int) -> None:
        try:
            self.window = self.window.pin(stream(count))
            self.entered += count
        except WindowOverflowError:
            assert len(self.window.pinned) + count > self.window.capacity // 2

    @rule(capacity=CAPACITIES)
    def resize(self, capacity: int) -> None:
        self.window = self.window.resized(capacity)

    @invariant()
    def laws(self) -> None:
        window = self.window
        assert len(window.tokens) <= window.capacity
        assert len(window.pinned) <= window.capacity // 2
        assert window.position == self.entered
        assert window.room >= 0


TestWindowMachine = WindowMachine.TestCase
