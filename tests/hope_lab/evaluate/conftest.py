"""Fixtures: tasks of `hope evaluate` run on a tiny random model, and the files that they read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from task_results import Run

from hope_lab.evaluate import main

TinyLlama = Callable[..., tuple[Any, Path]]
PROSE = "The tide came in slowly. Nobody had moved the boat.\n" * 60
STORY = "1 Mary went to the attic.\n2 Ann saw it.\n3 Where is Mary? \tattic\t1\n" * 3


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "prose.txt").write_text(PROSE, encoding="utf-8")
    (tmp_path / "qa1_x.txt").write_text(STORY, encoding="utf-8")
    return tmp_path


@pytest.fixture
def run(files: Path, chat_model_dir: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a task and parses what it prints, by default with the cheap recipe and no cache."""

    def go(
        task: str, *words: str, cache: bool = False, model: Path = chat_model_dir
    ) -> dict[str, Any]:
        shared = ["--model", str(model), "--threads", "1", "--json"]
        shared += ["--cache", str(files / "cache")] if cache else ["--no-cache"]
        if "--policy" not in words:
            shared += ["--policy", "summed_gradient"]
        assert main([task, *words, *shared]) == 0
        found = json.loads(capsys.readouterr().out)
        assert isinstance(found, dict)
        return found

    return go


@pytest.fixture
def letters(tiny_llama: TinyLlama, files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of 264 tokens, which has no chat template: enough to read a text with."""
    monkeypatch.setenv("HOPE_CACHE_DIR", str(files / "models"))
    _, directory = tiny_llama(max_position_embeddings=1024)
    return directory
