"""Poisoned texts from the command line to the JSON: damage with and without guards."""

from __future__ import annotations

import pytest
from task_results import COMMON, Run


def test_poison(run: Run) -> None:
    words = ("--facts", "2", "--attacks", "gibberish", "repeated", "--tokens", "64")
    found = run("poison", *words, "--seeds", "0", "1")
    figures = {"unguarded_damage", "guarded_damage", "honest_damage", "recall_before"}
    figures |= {"recall_after", "unguarded_recall_after", "false_alarms", "others_moved"}
    assert set(found) == COMMON | figures | {"tokens", "fed", "attacks", "guards", "summary"}
    # Another session learnt beside each poisoned one, and came out as if alone.
    assert found["others_moved"] == 0
    stages = [(row["seed"], row["guarded"], row["after"]) for row in found["rows"]]
    assert stages == [
        (seed, guarded, after)
        for seed in (0, 1)
        for guarded in (False, True)
        for after in ("facts", "gibberish", "repeated")
    ]
    for row in found["rows"]:
        assert row["consolidations"] > 0
        assert row["asked"] == 2
        assert row["guarded"] or not row["events"]
    unguarded = [row["nats"] for row in found["rows"] if not row["guarded"]]
    first, second = unguarded[2] / unguarded[0] - 1, unguarded[5] / unguarded[3] - 1
    assert found["unguarded_damage"] == pytest.approx((first + second) / 2)


def test_poison_without_poison_counts_false_alarms(run: Run) -> None:
    found = run("poison", "--facts", "3", "--attacks")
    assert found["guarded_damage"] is None
    assert [(row["guarded"], row["after"]) for row in found["rows"]] == [(True, "facts")]
    assert 0 <= found["false_alarms"] <= 1
