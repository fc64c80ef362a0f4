"""Trials are pooled by their labels, and a score is of all of them or of none."""

from __future__ import annotations

from typing import Any

import pytest

from hope_lab.evaluate.data.course import Asked, Course, Lesson
from hope_lab.evaluate.report.intervals import bootstrap, mean_interval
from hope_lab.evaluate.report.report import mean, wilson
from hope_lab.evaluate.running import Taken
from hope_lab.evaluate.scoring import correct, costs, rows, trials_of, values_found
from hope_runtime.session.policy import DEFAULT_POLICY

COSTS = {"learnt_tokens": 10, "trained_tokens": 50, "learn_seconds": 2.0, "state_bytes": 7}


def course(seed: int) -> Course:
    asked = (Asked("?", ("red",), ("blue",), "x"), Asked("?", ("blue",), ("red",), "y"))
    return Course({"length": 5, "seed": seed}, (Lesson("one", ("told",), asked),), 4)


def taken(seed: int, arm: str, *replies: str, whole: bool = True) -> Taken:
    policy = DEFAULT_POLICY if arm.startswith("memory") else None
    return Taken(course(seed), arm, policy, [list(replies) if whole else None], COSTS)


def test_rows_pool_seeds_and_keep_arms_apart() -> None:
    trials = trials_of([taken(0, "frozen", "red", "red"), taken(1, "frozen", "Red.", "blue")])
    (row,) = rows(trials, ("length",), correct)
    assert row == {
        "length": 5,
        "arm": "frozen",
        "policy": None,
        "score": 0.75,
        "interval": list(wilson(3, 4)),
        "asked": 4,
    }
    by_seed = rows(trials, ("seed", "about"), correct)
    assert [(found["seed"], found["about"], found["score"]) for found in by_seed] == [
        (0, "x", 1.0),
        (0, "y", 0.0),
        (1, "x", 1.0),
        (1, "y", 1.0),
    ]


def test_a_cell_that_was_not_answered_whole_has_no_score() -> None:
    some = [taken(0, "prompt", "red", "blue"), taken(1, "prompt", whole=False)]
    (row,) = rows(trials_of(some), ("length",), correct)
    assert (row["score"], row["interval"], row["asked"]) == (None, None, 4)


def test_values_count_one_by_one() -> None:
    asked = Asked("?", ("11", "22", "33"))
    assert values_found([(asked, "It is 22, and 11.")])[0] == pytest.approx(2 / 3)
    assert values_found([(asked, "112233")])[0] == 0


def test_the_arms_of_one_memory_share_its_costs() -> None:
    memory = taken(0, "memory", "red", "blue")
    both = Taken(memory.course, "memory+retrieval", DEFAULT_POLICY, memory.replies, COSTS)
    baseline = taken(0, "frozen", "red", "blue")
    (row,) = costs([baseline, memory, both, taken(1, "memory", "", "")], ("length",))
    expected: dict[str, Any] = {"learnt_tokens": 20, "trained_tokens": 100, "learn_seconds": 4.0}
    assert row == {
        "length": 5,
        "policy": "default",
        **expected,
        "passes_per_token": 5.0,
        "state_bytes": 7,
    }


def test_intervals_of_means() -> None:
    # Standard deviation 1, four values: 1.96 halves.
    values = [-1.2247448713915890, 0.0, 1.2247448713915890, 0.0]
    low, high = mean_interval(values) or (0, 0)
    assert (low, high) == pytest.approx((-0.979982, 0.979982), abs=1e-6)
    assert mean_interval([1.0]) is None
    assert bootstrap([1.0], mean) is None
    assert bootstrap([2.0, 2.0, 2.0], mean) == (2.0, 2.0)
    values = [float(value % 10) for value in range(200)]
    low, high = bootstrap(values, mean) or (0, 0)
    expected = mean_interval(values) or (0, 0)
    assert (low, high) == pytest.approx(expected, abs=0.1)
    assert bootstrap(values, mean) == (low, high)
