"""`hope train` from the command line to its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hope_lab.evaluate import main as evaluate
from hope_lab.train import log
from hope_lab.train.cli import main
from hope_runtime.checkpoints import hope_run as checkpoint

SMALL = ["--set", "batch_rows=4", "--set", "task.longest=12", "--set", "task.longest_tested=26"]
SMALL += ["--set", "model.d_model=16", "--set", "model.n_heads=2", "--set", "test_rows=4"]


def run(out: Path, *more: str) -> int:
    words = ["--task", "parity", "--model", "hope", "--steps", "2", "--out", str(out)]
    return main([*words, *SMALL, *more])


def test_a_run_is_trained_logged_and_measured(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    assert run(tmp_path / "run") == 0
    printed = capsys.readouterr().out
    assert "bin0: accuracy" in printed
    assert "bin1: accuracy" in printed
    saved = checkpoint.load(tmp_path / "run")
    assert saved.step == 2
    assert saved.config.backbone.d_model == 16
    assert [step.step for step in log.read(tmp_path / "run")] == [2]
    assert run(tmp_path / "run", "--resume") == 0


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--set", "fast.rule=none"], "rule"),
        (["--set", "steps"], "KEY=VALUE"),
        (["--set", "nobody.knows=1"], "KEY=VALUE"),
        (["--set", "learning_rate=fast"], "learning_rate"),
        (["--set", "model.width=3"], "width"),
        (["--set", "task.longest=1"], "longest"),
        (["--resume"], "no checkpoint"),
    ],
)
def test_errors_are_one_line(tmp_path: Path, capsys, more: list[str], says: str) -> None:  # type: ignore[no-untyped-def]
    assert run(tmp_path, *more) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert says in error


def test_tables_are_trained_and_printed_beside_the_paper(capsys) -> None:  # type: ignore[no-untyped-def]
    few = ["--steps", "2", "--rows", "2", "--width", "16", "--json"]
    assert evaluate(["formal", "--tasks", "parity", "--seeds", "0", "1", *few]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(of["task"], of["model"], of["seed"]) for of in found] == [
        ("parity", model, seed) for model in ("hope", "transformer") for seed in (0, 1)
    ]
    assert [of["paper"]["bin0"] for of in found] == pytest.approx([1, 1, 0.464, 0.464])
    assert found[0]["loss"] != found[1]["loss"]
    assert evaluate(["mad", "--tasks", "compression", "--models", "gated_deltanet", *few]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["paper"] is None
    assert 0 <= found["accuracy"]["test"] <= 1
