"""Fixtures: runs of a few steps of training, and the native models that they made."""

from __future__ import annotations

from pathlib import Path

import pytest
from native_sessions import BOOK

from hope_lab.train.cli import main as train
from hope_runtime.checkpoints import load_model
from hope_runtime.models.hope.served import HopeModel

SMALL = ("model.d_model=16", "model.n_heads=2", "model.periods=[16,64]", "model.window=32")
PRESETS = ("hope", "hope_attention", "titans")


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Directories of runs, each of a few steps on bytes of text."""
    place = tmp_path_factory.mktemp("runs")
    (place / "text.txt").write_text(BOOK * 6, "utf-8")
    options = [*SMALL, f'task.files=["{place}/text.txt"]', "task.window=32", "batch_rows=2"]
    options += ["test_rows=2", "warmup_steps=1"]
    for name in PRESETS:
        settings = [part for option in options for part in ("--set", option)]
        words = ["--task", "text", "--model", name, "--steps", "3", "--out", str(place / name)]
        assert train([*words, *settings]) == 0
    return {name: place / name for name in PRESETS}


@pytest.fixture(scope="module", params=PRESETS)
def model(request: pytest.FixtureRequest, runs: dict[str, Path]) -> HopeModel:
    found = load_model(runs[request.param])
    assert isinstance(found, HopeModel)
    return found


@pytest.fixture(scope="module")
def hope(runs: dict[str, Path]) -> HopeModel:
    found = load_model(runs["hope"])
    assert isinstance(found, HopeModel)
    return found
