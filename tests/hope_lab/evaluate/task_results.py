"""Results of tasks of `hope evaluate` as JSON: the keys that tasks share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hope_lab.evaluate.contenders import ARMS

Run = Callable[..., dict[str, Any]]
COMMON = {"task", "model", "dtype", "seeds", "policies", "replay", "rows"}
ROW = {"arm", "policy", "score", "interval", "asked"}
COST = {"policy", "learnt_tokens", "trained_tokens", "learn_seconds", "passes_per_token"}
COST |= {"state_bytes"}
SHOWN = {"after", "arm", "policy", "text", "values", "reply"}


def check(found: dict[str, Any], labels: set[str], costs: set[str], *, own: set[str]) -> None:
    """The keys of a task whose contenders answer questions."""
    assert set(found) == COMMON | {"per_seed", "costs"} | own
    for row in found["rows"]:
        assert set(row) == ROW | labels
        assert row["interval"][0] <= row["score"] <= row["interval"][1]
    assert {row["arm"] for row in found["rows"]} == set(ARMS)
    for row in found["per_seed"]:
        assert set(row) == ROW | labels | {"seed"}
    for row in found["costs"]:
        assert set(row) == COST | costs
        assert row["trained_tokens"] > 0
        assert row["learn_seconds"] > 0
