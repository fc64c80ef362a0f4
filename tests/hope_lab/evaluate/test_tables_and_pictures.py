"""Results for people: tables on the terminal, and pictures."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from task_results import Run

from hope_lab.evaluate import main


def test_tables_for_people(
    files: Path, chat_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--lengths", "150", "--samples", "1", "--text", str(files / "prose.txt"), "--show"]
    shared = ["--model", str(chat_model_dir), "--no-cache", "--arms", "frozen", "retrieval"]
    assert main(["needle", *words, *shared]) == 0
    out, err = capsys.readouterr()
    for word in ("passkey", "retrieval", "score", "reply"):
        assert word in out
    assert "length 150" in err


@pytest.mark.parametrize("task", ["needle", "adaptation", "forgetting", "recall", "poison"])
def test_a_picture(task: str, run: Run, files: Path) -> None:
    pytest.importorskip("matplotlib")
    path = files / "picture.png"
    text = ("--text", str(files / "prose.txt"))
    words = {
        "needle": ("--lengths", "150", "--samples", "1", "--arms", "frozen", *text),
        "adaptation": ("--tokens", "600", "--block", "200", *text),
        "forgetting": ("--sessions", "2", "--facts", "1", "--arms", "frozen"),
        "recall": ("--facts", "1", "--filler", "0", "--arms", "frozen"),
        "poison": ("--facts", "1", "--attacks", "repeated", "--tokens", "20"),
    }[task]
    run(task, *words, "--plot", str(path))
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_drawn_is_said_before_the_work(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    words = ["--text", str(files / "prose.txt"), "--model", "no/model/there", "--no-cache"]
    assert main(["needle", *words, "--plot", str(files / "a.png")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "hope evaluate: plots require matplotlib; run `pip install 'hope-server[train]'`, "
        "or omit --plot\n"
    )
