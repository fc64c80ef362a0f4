"""Intervals, pooling and the line between figures and their print."""

from __future__ import annotations

import io
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hope_lab.evaluate.report.report import Share, per_cent, pooled, print_json, wilson


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [
        # Newcombe (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_intervals_are_those_of_the_literature(
    hits: int, count: int, low: float, high: float
) -> None:
    assert wilson(hits, count) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(0, 500), st.integers(0, 500))
def test_an_interval_holds_its_rate_and_mirrors(hits: int, misses: int) -> None:
    low, high = wilson(hits, hits + misses)
    assert 0 <= low <= high <= 1
    if hits + misses:
        assert low <= hits / (hits + misses) <= high
    assert wilson(misses, hits + misses) == pytest.approx((1 - high, 1 - low))


def test_an_impossible_proportion_is_refused() -> None:
    with pytest.raises(ValueError, match="3 of 2"):
        wilson(3, 2)


def test_shares_pool_trial_by_trial_and_a_missing_one_hides_the_rest() -> None:
    assert pooled([Share.of([True, False]), Share(0, 2)]) == Share(1, 4)
    assert Share(1, 4).rate == 0.25
    assert pooled([Share(1, 2), None]) is None
    assert Share(0, 0).rate is None
    assert per_cent(None) == "-"
    assert per_cent(0.125) == "12.5 %"


def test_json_is_one_document_without_nan() -> None:
    stream = io.StringIO()
    print_json({"a": "é", "b": [math.inf, 1.5], "c": {"d": math.nan}}, stream)
    assert json.loads(stream.getvalue()) == {"a": "é", "b": [None, 1.5], "c": {"d": None}}
