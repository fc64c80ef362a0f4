"""Every invariant of the architecture has a test that names it and fails without its mechanism."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
_IN_NAME = re.compile(r"^test((?:_\d+)+)_")
_IN_DOCSTRING = re.compile(r"\bInvariant ((?:\d+, )*\d+)")


@cache
def invariants_of(file: Path) -> dict[str, frozenset[int]]:
    """The tests of a file with the invariants that each names."""
    found = {}
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith(
            "test"
        ):
            numbers: set[int] = set()
            if match := _IN_NAME.match(node.name):
                numbers |= {int(each) for each in match[1].split("_") if each}
            if match := _IN_DOCSTRING.search(ast.get_docstring(node) or ""):
                numbers |= {int(each) for each in match[1].split(", ")}
            found[node.name] = frozenset(numbers)
    return found


def test_the_list_of_invariants_is_whole() -> None:
    listed = re.findall(r"^(\d+)\. ", (ROOT / "tests" / "invariants.md").read_text("utf-8"), re.M)
    assert [int(number) for number in listed] == list(range(1, 31))


def test_every_invariant_is_named_by_a_test() -> None:
    named: set[int] = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        named.update(*invariants_of(file).values())
    assert set(range(1, 31)) <= named


def test_every_invariant_has_a_mutant_that_fits_the_code() -> None:
    assert [mutant.number for mutant in MUTANTS] == list(range(1, 31))
    for mutant in MUTANTS:
        code = (ROOT / mutant.file).read_text(encoding="utf-8")
        assert code.count(mutant.old) == 1, mutant
        assert any(mutant.number in of for of in invariants_of(ROOT / mutant.tests).values()), (
            mutant
        )


@pytest.mark.heavy
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: str(mutant.number))
def test_a_broken_mechanism_is_noticed(mutant: Mutant, tmp_path: Path) -> None:
    """The tests that name the invariant pass as the code is, and one fails under the mutant."""
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    for folder in ("hope_runtime", "hope_lab", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    of_file = invariants_of(ROOT / mutant.tests)
    names = [name for name, numbers in of_file.items() if mutant.number in numbers]
    assert run(tmp_path, mutant.tests, names) == pytest.ExitCode.OK
    file = tmp_path / mutant.file
    code = file.read_text(encoding="utf-8")
    file.write_text(code.replace(mutant.old, mutant.new), encoding="utf-8")
    assert run(tmp_path, mutant.tests, names) == pytest.ExitCode.TESTS_FAILED


def run(directory: Path, file: str, names: list[str]) -> int:
    """The exit code of pytest on some tests of a file, with the package of `directory`."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider"]
        + [f"{file}::{name}" for name in names],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": str(directory), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    return done.returncode
