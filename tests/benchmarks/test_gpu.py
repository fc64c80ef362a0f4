"""The script of a device's figures, at a small size, on whatever computes here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.gpu import main
from hope_runtime.device import available


@pytest.mark.parametrize("device", available())
def test_every_figure_is_measured(
    chat_model_dir: Path, device: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", str(chat_model_dir), "--device", device, "--dtype", "float32"]
    arguments += ["--threads", "1", "--sessions", "1", "2", "--facts", "2", "--static"]
    arguments += ["--reply-tokens", "12", "--prompt-tokens", "150"]
    assert main(arguments) == 0
    about, *entries = json.loads(capsys.readouterr().out)
    assert about["value"].startswith(device)
    assert [entry["name"] for entry in entries] == [
        "decode.bare1",
        "decode.memories1",
        "decode.bare2",
        "decode.memories2",
        "decode.temperature2",
        "prefill.bare",
        "prefill.memories",
        "first_token.150",
        "learn.first",
        "learn.2_facts",
    ]
    assert all(entry["value"] > 0 for entry in entries)
    assert entries[-1]["trained_tokens"] > 0
    assert 0 < entries[-1]["phases"]["steps"] < entries[-1]["value"]


def test_what_the_time_does_not_allow_is_left_out(
    chat_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", str(chat_model_dir), "--device", "cpu", "--threads", "1"]
    assert main([*arguments, "--sessions", "1", "--seconds", "0"]) == 0
    _, *entries = json.loads(capsys.readouterr().out)
    assert len(entries) == 9
    assert {entry["value"] for entry in entries} == {None}
