"""Every task from its command line to its JSON, on a tiny random model with the real engine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from task_results import COMMON, ROW, SHOWN, Run, check

from hope_lab.evaluate import main
from hope_lab.evaluate.cli import TASKS
from hope_lab.evaluate.contenders import ARMS


def test_needle(run: Run, files: Path) -> None:
    text = ("--text", str(files / "prose.txt"))
    kinds = ("passkey", "multi_query")
    words = ("--kinds", *kinds, "--lengths", "150", "300", "--samples", "1", *text)
    found = run("needle", *words, "--show")
    shown = found.pop("shown")
    check(found, {"kind", "length"}, {"kind", "length"}, own=set())
    assert len(found["rows"]) == 2 * 2 * len(ARMS)
    assert len(found["costs"]) == 2 * 2
    assert [row["asked"] for row in found["rows"]] == [1] * len(found["rows"])
    assert set(shown[0]) == SHOWN | {"kind", "length", "seed", "sample"}
    longer = {row["length"]: row["learnt_tokens"] for row in found["costs"]}
    assert 100 < longer[150] <= 150 < 250 < longer[300] <= 300


def test_personal(run: Run) -> None:
    found = run("personal", "--people", "2", "--facts", "2")
    assert {row["arm"] for row in found["rows"]} == set(ARMS)
    for row in found["rows"]:
        assert set(row) == ROW | {"named"}
        assert row["asked"] == 2 * 2
        assert row["score"] <= row["named"]
    assert found["costs"][0]["trained_tokens"] > 0


def test_babilong(run: Run, files: Path) -> None:
    words = ("--stories", str(files), "--text", str(files / "prose.txt"), "--lengths", "120")
    found = run("babilong", *words, "--samples", "2")
    check(found, {"story", "length"}, {"story", "length"}, own=set())
    assert [row["asked"] for row in found["rows"]] == [2] * len(ARMS)


def test_ctnl(run: Run) -> None:
    found = run("ctnl", "--pairs", "10", "--tests", "2")
    own = {"pairs", "told", "matrices"}
    check(found, {"course", "after", "about"}, {"course"}, own=own)
    assert len(found["matrices"]) == len(ARMS)
    for item in found["matrices"]:
        assert set(item) == {"arm", "policy", "learnt", "final", "forgetting", "matrix"}
        assert [len(row) for row in item["matrix"]] == [1, 2]
    assert len(found["rows"]) == len(ARMS) * (3 + 1)


def test_incremental(run: Run) -> None:
    sizes = ("--sessions", "2", "--classes", "2", "--examples", "2", "--tests", "1")
    found = run("incremental", *sizes, "--told", "document")
    check(found, {"after"}, set(), own={"classes", "examples", "told", "matrices"})
    assert [row["asked"] for row in found["rows"] if row["arm"] == "memory"] == [2, 4]


def test_forgetting(run: Run) -> None:
    found = run("forgetting", "--sessions", "3", "--facts", "1", "--seeds", "0", "1")
    check(found, {"after"}, set(), own={"facts", "told", "matrices"})
    assert [len(row) for row in found["matrices"][0]["matrix"]] == [1, 2, 3]
    asked = [row["asked"] for row in found["rows"] if row["arm"] == "frozen"]
    assert asked == [2, 4, 6]
    assert len(found["per_seed"]) == 2 * len(found["rows"])


def test_every_task_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    listed = capsys.readouterr().out
    names = [task.NAME for task in TASKS]
    assert names[:3] == ["recall", "specificity", "needle"]
    assert len(names) == len(set(names)) == 15
    assert all(re.search(rf"^    {name}\s", listed, re.MULTILINE) for name in names)


def test_specificity(run: Run) -> None:
    words = ("--facts", "1", "2", "--parts", "specificity", "corrections", "conflicts")
    found = run("specificity", *words, "--pairs", "2", "--show")
    assert set(found) == COMMON | {
        *("damage", "corrections", "costs", "groups", "wordings"),
        *("shown", "development_seeds"),
    }
    assert [(row["part"], row["facts"]) for row in found["rows"]] == [
        ("specificity", 1),
        ("specificity", 2),
        ("conflicts", 3),
    ]
    assert found["rows"][0]["leak_asked"] >= 30
    assert found["corrections"][0]["new_asked"] == 4
    assert all(row["passes_per_token"] > 0 for row in found["costs"])
    assert found["development_seeds"] == []
