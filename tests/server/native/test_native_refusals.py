"""Checkpoints that cannot be served, and sessions of other models, are refused in a sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import grpc
import pytest
from api import refusal_of
from native_sessions import begin
from serving import Serve

from hope_lab.train.cli import main as train
from hope_runtime.checkpoints import load_model
from hope_runtime.models.hope.served import HopeModel
from server.main import main as serve_command


def _refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert serve_command(["--port", "0", *arguments]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "hope serve: " in line]
    assert len(lines) == 1
    return lines[0]


def test_checkpoints_that_cannot_be_served_say_why(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line each, whatever is wrong with the files."""
    small = ["--set", "batch_rows=2", "--set", "test_rows=2", "--set", "model.d_model=16"]
    small += ["--set", "task.longest=12", "--set", "task.longest_tested=26"]
    words = ["--task", "parity", "--steps", "1", "--out", str(tmp_path / "parity"), *small]
    assert train(words) == 0
    assert "trained on parity" in _refusal(capsys, "--model", str(tmp_path / "parity"))
    assert "float32" in _refusal(capsys, "--model", str(runs["hope"]), "--dtype", "bfloat16")

    def broken(name: str) -> Path:
        shutil.copytree(runs["hope"], tmp_path / name)
        (place,) = (tmp_path / name).glob("step-*")
        return place

    weights = broken("truncated") / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "cannot be read" in _refusal(capsys, "--model", str(tmp_path / "truncated"))
    data = bytearray((weights := broken("changed") / "weights.safetensors").read_bytes())
    data[-5] ^= 1
    weights.write_bytes(bytes(data))
    assert "do not belong to one checkpoint" in _refusal(
        capsys, "--model", str(tmp_path / "changed")
    )
    run = broken("newer") / "run.json"
    run.write_text(json.dumps(json.loads(run.read_text()) | {"version": 99}))
    assert "version 99" in _refusal(capsys, "--model", str(tmp_path / "newer"))
    (broken("missing") / "weights.safetensors").unlink()
    assert "cannot be read" in _refusal(capsys, "--model", str(tmp_path / "missing"))
    (broken("tokenizer") / "tokenizer.json").write_text("{}")
    assert "cannot be read" in _refusal(capsys, "--model", str(tmp_path / "tokenizer"))


async def test_sessions_of_another_model_are_refused(
    serve: Serve, runs: dict[str, Path], hope: HopeModel
) -> None:
    async with serve(hope) as served:
        await begin(served)
    async with serve(load_model(runs["titans"])) as served:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.api.say("Hello?")
        assert refusal_of(caught.value).reason == "OTHER_BASE_MODEL"


def test_vllm_does_not_serve_a_native_model(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """It writes its memories while it reads."""
    assert serve_command(["--model", str(runs["hope"]), "--engine", "vllm", "--port", "0"]) == 1
    assert "--engine torch" in capsys.readouterr().err
