"""The tables of models that read a stream and learn on the way: ablation and levels."""

from __future__ import annotations

import json

import pytest
import torch

from hope_lab.evaluate.cli import main
from hope_lab.evaluate.streams import bytes_of, stream_nats, stretches
from hope_lab.evaluate.tasks import ablation, levels
from hope_runtime.models.hope.weights import init_weights

KEYS = {"task", "model", "seed", "cpu_seconds", "loss", "paper"}


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, object]]:
    assert main([*words, "--json"]) == 0
    found: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return found


def test_an_ablation_differs_in_one_part_and_has_the_same_mlps() -> None:
    """Fails when a variant loses parameters that it is not about."""
    whole = ablation.model_of("hope", 32)
    for variant in ablation.VARIANTS:
        config = ablation.model_of(variant, 32)
        units = sum(level.d_ff for level in config.levels)
        assert units == sum(level.d_ff for level in whole.levels)
        differs = (config.fast != whole.fast, config.levels != whole.levels)
        assert sum(differs) == (variant != "hope"), variant


def test_the_ablation_trains_and_reads(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--steps", "2", "--rows", "2", "--window", "32", "--width", "16"]
    found = printed(capsys, "ablation", *sizes, "--models", "hope", "no_cms", "--seeds", "0", "1")
    assert [(each["model"], each["seed"]) for each in found] == [
        ("hope", 0),
        ("hope", 1),
        ("no_cms", 0),
        ("no_cms", 1),
    ]
    assert all(each.keys() >= KEYS for each in found)
    assert len({each["loss"] for each in found}) == 4


def test_the_levels_train_and_read(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--steps", "2", "--rows", "2", "--window", "32", "--width", "16", "--tokens", "96"]
    found = printed(capsys, "levels", *sizes, "--levels", "1", "3", "--lowest", "16", "64")
    assert [(each["levels"], each["lowest_frequency_tokens"]) for each in found] == [
        (1, 0),
        (3, 16),
        (3, 64),
    ]
    assert all(each.keys() >= KEYS for each in found)


def test_placing_layers_in_levels_keeps_the_model_until_they_learn() -> None:
    """Level stacking: the same weights, so the first chunk reads alike whatever the placement.
    Fails when a level takes another layer's MLP."""
    config = levels.model_of(16, 32)
    weights = init_weights(config, 0)
    ids = bytes_of("The history of the lighthouse begins with a storm. " * 3)[None, :80]
    still = stream_nats(levels.placed(config, 1, 0, 0.0), weights, ids)
    for count in (2, 3, 4):
        moved = stream_nats(levels.placed(config, count, 64, 0.01), weights, ids)
        first = 64 // levels.APART ** (count - 2) - 1
        torch.testing.assert_close(moved[:, :first], still[:, :first], rtol=1e-5, atol=1e-5)
        assert not torch.equal(moved, still)


def test_stretches_do_not_overlap() -> None:
    ids = torch.arange(100)
    cut = stretches(ids, 3, 30)
    assert cut.shape == (3, 30)
    assert len(cut.unique()) == 90
