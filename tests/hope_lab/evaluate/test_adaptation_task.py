"""Adaptation to a long text from its command line to its JSON, with its controls."""

from __future__ import annotations

from pathlib import Path

import pytest
from task_results import COMMON, Run


def test_adaptation(run: Run, files: Path, letters: Path) -> None:
    text = files / "letters.txt"
    text.write_text("".join(f"Day {n}. The tide was {n * 7 % 10}.\n" for n in range(400)))
    words = ("--text", str(text), "--tokens", "1200", "--block", "300")
    found = run("adaptation", *words, "--seeds", "0", "1", model=letters)
    assert set(found) == COMMON | {"tokens", "block"}
    arms = ["off", "off_calibrated", "on", "on_calibrated"]
    assert [(row["seed"], row["arm"]) for row in found["rows"]] == [
        (seed, arm) for seed in (0, 1) for arm in arms
    ]
    keys = {"seed", "arm", "policy", "mean_nats", "last_half_nats", "positions", "nats"}
    keys |= {"gain", "gain_interval", "gain_over_calibrated", "gain_over_calibrated_interval"}
    for row in found["rows"]:
        assert set(row) == keys | {"learnt_tokens", "trained_tokens", "learn_seconds"}
        assert len(row["nats"]) == len(row["positions"]) == 4
        # All tokens but the very first are predicted.
        assert 1150 < row["positions"][-1] < 1200
    off, fitted, on, _ = found["rows"][:4]
    assert on["learnt_tokens"] == on["positions"][-1] + 1
    assert off["trained_tokens"] is None
    # Before the first boundary, at 512 tokens, nothing was learnt; after it, something was.
    assert on["nats"][0] == pytest.approx(off["nats"][0], rel=1e-5)
    assert on["nats"][-1] != pytest.approx(off["nats"][-1], rel=1e-5)
    # A random model says nothing of this text, so the frequencies of its words are worth much.
    assert fitted["last_half_nats"] < off["last_half_nats"] - 1
    assert fitted["gain"] > 1


def test_the_control_is_the_same_whatever_a_memory_learns(
    run: Run, files: Path, letters: Path
) -> None:
    words = ("--text", str(files / "prose.txt"), "--tokens", "1200", "--block", "300")
    cheap = ("--replay", "plain_price=1", "statement_price=1")
    one = run("adaptation", *words, "--policy", "summed_gradient", model=letters)
    other = run("adaptation", *words, "--policy", "replay", *cheap, model=letters)
    by_arm = [{row["arm"]: row["nats"] for row in found["rows"]} for found in (one, other)]
    assert by_arm[0]["off_calibrated"] == by_arm[1]["off_calibrated"]
    assert by_arm[0]["on"] != by_arm[1]["on"]
