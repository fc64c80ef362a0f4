"""Texts that the base wrote are read again instead of written again, and never trusted blindly."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hope_runtime.learning import sample_cache as kept
from hope_runtime.learning.decoding import decode
from hope_runtime.learning.sample_cache import SampleCache
from hope_runtime.learning.workers import Workers
from hope_runtime.models.decoder.weights import BaseModel

PROMPTS = [(5, 6, 7), (8, 9)]
HOW: dict[str, Any] = {"max_tokens": 6, "stop": frozenset(), "temperature": 1.0}


def texts(model: BaseModel, directory: Path | None, **how: Any) -> list[tuple[int, ...]]:
    return SampleCache(model, Workers(1), directory).write(PROMPTS, **(HOW | how))


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often the base has written since."""
    written: list[int] = []

    def counting(*args: Any, **how: Any) -> Any:
        written.append(1)
        return decode(*args, **how)

    monkeypatch.setattr(kept, "decode", counting)
    return written


def test_a_text_is_written_once_for_all_processes(
    chat_model: BaseModel, tmp_path: Path, silent: list[int]
) -> None:
    alone = texts(chat_model, None)
    assert texts(chat_model, tmp_path / "new") == alone
    assert len(silent) == 2
    assert texts(chat_model, tmp_path / "new") == alone
    assert len(silent) == 2


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"temperature": 0.5}, {"max_tokens": 7}, {"prefix": (4,)}]
)
def test_another_question_is_another_text(
    chat_model: BaseModel, tmp_path: Path, silent: list[int], other: dict[str, Any]
) -> None:
    texts(chat_model, tmp_path)
    assert texts(chat_model, tmp_path, **other) == texts(chat_model, None, **other)
    assert len(silent) == 3


def test_another_model_writes_for_itself(
    chat_model: BaseModel, tmp_path: Path, silent: list[int]
) -> None:
    texts(chat_model, tmp_path)
    texts(replace(chat_model, fingerprint="another"), tmp_path)
    assert len(silent) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda found: found[:-1],
        lambda found: [[10**6] for _ in found],
        lambda found: [[-1] for _ in found],
        lambda found: [[True] for _ in found],
        lambda found: [["a"] for _ in found],
        lambda found: [[1] * 7 for _ in found],
        lambda found: {"0": found},
        lambda found: None,
    ],
)
def test_a_damaged_file_is_written_anew(
    chat_model: BaseModel, tmp_path: Path, silent: list[int], damage: Any
) -> None:
    right = texts(chat_model, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text(json.dumps(damage(json.loads(file.read_text()))))
    assert texts(chat_model, tmp_path) == right
    file.write_text("[[1, 2")
    assert texts(chat_model, tmp_path) == right
    assert len(silent) == 3
    assert texts(chat_model, tmp_path) == right
    assert len(silent) == 3


def test_a_place_that_cannot_be_written_costs_only_time(
    chat_model: BaseModel, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert texts(chat_model, blocked / "below") == texts(chat_model, None)
