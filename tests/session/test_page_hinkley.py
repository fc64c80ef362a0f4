"""Page-Hinkley's test against the one of river, and what it tells of plain streams."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from river.drift import PageHinkley as Oracle

from hope_runtime.session.page_hinkley import EMPTY_STREAM, PageHinkley

FIGURES = st.floats(-20, 20, allow_nan=False)


@given(
    tolerance=st.floats(0, 1),
    threshold=st.floats(0.5, 30),
    warm_up=st.integers(1, 12),
    memory=st.floats(0.5, 1),
    # Stretches with a mean of their own: changes are common.
    stretches=st.lists(st.tuples(FIGURES, st.lists(st.floats(-2, 2), max_size=20)), max_size=6),
)
def test_it_alarms_where_river_does(
    tolerance: float,
    threshold: float,
    warm_up: int,
    memory: float,
    stretches: list[tuple[float, list[float]]],
) -> None:
    test = PageHinkley(tolerance, threshold, warm_up, memory)
    oracle = Oracle(min_instances=warm_up, delta=tolerance, threshold=threshold, alpha=memory)
    state = EMPTY_STREAM
    for mean, noise in stretches:
        for each in noise:
            state, deviation = test.step(state, mean + each)
            oracle.update(mean + each)
            assert bool(deviation) == oracle.drift_detected
            assert abs(deviation) > threshold or deviation == 0


def test_the_sign_says_which_way_the_mean_went() -> None:
    test = PageHinkley(tolerance=0.1, threshold=2, warm_up=5)
    for change in (3.0, -3.0):
        state, found = EMPTY_STREAM, list[float]()
        for value in [1.0] * 10 + [1.0 + change] * 5:
            state, deviation = test.step(state, value)
            found.append(deviation)
        assert not any(found[:10])
        assert next(each * change > 0 for each in found if each)


def test_noise_within_the_tolerance_is_no_change() -> None:
    test, state = PageHinkley(tolerance=0.5, threshold=1, warm_up=1), EMPTY_STREAM
    for index in range(1000):
        state, deviation = test.step(state, 0.4 * (-1) ** index)
        assert deviation == 0
    assert state.count == 1000


@pytest.mark.parametrize("wrong", [{"threshold": 0.0}, {"tolerance": -1.0}, {"warm_up": 0}])
def test_nonsense_is_refused(wrong: dict[str, float]) -> None:
    sound = {"tolerance": 0.1, "threshold": 1.0, "warm_up": 3}
    with pytest.raises(ValueError, match="threshold"):
        PageHinkley(**(sound | wrong))  # type: ignore[arg-type]
