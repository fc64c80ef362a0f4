"""Docstrings begin with a noun or an imperative verb, and files stay readable in one sitting."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "hope_runtime",
    "hope_lab",
    "hope_documents",
    "server",
    "clients/python",
    "benchmarks",
    "examples",
)
RIDDLE = re.compile(r"(What|How|Who|Which|Where)\b")


@pytest.mark.parametrize("package", PACKAGES)
def test_docstrings_say_what_a_thing_is(package: str) -> None:
    found = []
    for path in sorted((ROOT / package).rglob("*.py")):
        if path.stem.endswith(("_pb2", "_pb2_grpc")):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node) or ""
                if RIDDLE.match(text):
                    place = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"
                    found.append(f"{place}: {text.splitlines()[0]}")
    assert not found, "\n".join(found)


# What people read: the packages, the other client and the tests.
SOURCES = (*PACKAGES, "clients/typescript/src", "tests")
# Tables of data, which are read entry by entry.
DATA = {"server/app/error_codes.py", "hope_lab/evaluate/data/relations.py"}
MOST_LINES = 300


def lines_of(root: Path) -> dict[str, int]:
    """Number of lines of each source file under `root`, except generated code."""
    return {
        str(path.relative_to(root)): len(path.read_text("utf-8").splitlines())
        for folder in SOURCES
        for path in sorted((root / folder).rglob("*"))
        if path.suffix in (".py", ".ts", ".mjs")
        and not path.stem.endswith(("_pb2", "_pb2_grpc"))
        and "generated" not in path.parts
    }


def too_long(lines: dict[str, int]) -> list[str]:
    """Files that should be split, apart from DATA."""
    return [
        f"{name} has {count} lines; split it by responsibility"
        for name, count in lines.items()
        if count > MOST_LINES and name not in DATA
    ]


def test_files_are_short_enough_to_read() -> None:
    assert not too_long(lines_of(ROOT)), "\n".join(too_long(lines_of(ROOT)))


def test_only_long_files_are_exempt() -> None:
    """An exemption goes when its file is short enough, or is gone."""
    lines = lines_of(ROOT)
    assert {name for name in DATA if lines.get(name, 0) > MOST_LINES} == DATA


@pytest.mark.parametrize("name", ["server/long.py", "tests/models/test_long.py"])
def test_a_long_file_is_noticed(tmp_path: Path, name: str) -> None:
    long = tmp_path / name
    long.parent.mkdir(parents=True)
    (long.parent / "short.py").write_text("x = 1\n" * MOST_LINES)
    long.write_text("x = 1\n" * (MOST_LINES + 1))
    assert too_long(lines_of(tmp_path)) == [f"{name} has 301 lines; split it by responsibility"]
