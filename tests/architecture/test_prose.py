"""Docstrings begin with a noun or an imperative verb, and files stay readable in one sitting."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("hope_runtime", "hope_lab", "server", "clients/python", "benchmarks")
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
