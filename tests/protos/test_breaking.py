"""`buf breaking` against the released API, as `make lint` runs it: what passes, what does not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PROTOS = Path(__file__).resolve().parents[2] / "protos"
BUF = Path(sys.executable).with_name("buf")

Edit = Callable[[str], str]


def against_release(directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BUF, "breaking", "--against", PROTOS / "released" / "hope.v1.binpb"],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def edited(tmp_path: Path) -> Callable[..., Path]:
    """A copy of the API's sources, in which one text of inference.proto stands for another."""

    def edit(old: str = "", new: str = "") -> Path:
        shutil.copytree(PROTOS, tmp_path / "protos")
        path = tmp_path / "protos" / "hope" / "v1" / "inference.proto"
        source = path.read_text(encoding="utf-8")
        assert old in source
        path.write_text(source.replace(old, new, 1), encoding="utf-8")
        return tmp_path / "protos"

    return edit


def test_the_api_breaks_no_released_client() -> None:
    done = against_release(PROTOS)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


BREAKING = {
    "a field is removed": ("  bool replayed = 4;\n", "", "deleted"),
    "a number is reused": ("  bool replayed = 4;", "  bool repeated = 4;", "changed name"),
    "a type changes": ("  uint32 tokens = 2;", "  string tokens = 2;", "changed type"),
    "a method is removed": (
        "  rpc Score(ScoreRequest) returns (ScoreResponse);\n",
        "",
        'RPC "Score"',
    ),
    "a value is removed": ("  FINISH_REASON_STOP_STRING = 3;\n", "", "deleted"),
}


@pytest.mark.parametrize("name", BREAKING)
def test_a_break_is_found(edited: Callable[..., Path], name: str) -> None:
    old, new, said = BREAKING[name]
    done = against_release(edited(old, new))
    assert done.returncode == 100, done.stderr
    assert "inference.proto" in done.stdout
    assert said in done.stdout


def test_an_addition_is_none(edited: Callable[..., Path]) -> None:
    directory = edited(
        "  bool replayed = 4;\n", "  bool replayed = 4;\n  // How it felt.\n  string mood = 99;\n"
    )
    done = against_release(directory)
    assert (done.returncode, done.stdout) == (0, "")
