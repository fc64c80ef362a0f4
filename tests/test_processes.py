"""The suite's own guards against tests and teardowns that hang and processes left behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import processes

TESTS = Path(__file__).parent
GUARDED = """
import subprocess, threading
import pytest

def test_hangs():
    threading.Event().wait()

def test_leaves_a_child():
    child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    print("child is", child.pid)

def test_is_not_disturbed():
    pass
"""
NEVER_TORN_DOWN = """
import threading
import conftest, pytest

conftest.TEARDOWN_SECONDS = 1

@pytest.fixture
def stubborn():
    yield
    while True:
        try:
            threading.Event().wait()
        except BaseException:
            pass  # as what waits for a thread that does not end

def test_passes(stubborn):
    pass
"""


def run_pytest(directory: Path, text: str) -> subprocess.CompletedProcess[str]:
    (directory / "test_it.py").write_text(text)
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider"),
            *("-c", TESTS.parent / "pyproject.toml", "-rA", "--timeout", "2", directory),
        ],
        env={**os.environ, "PYTHONPATH": f"{TESTS}:{os.environ.get('PYTHONPATH', '')}"},
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        timeout=processes.PATIENCE_SECONDS,
    )


def test_what_hangs_fails_and_what_is_left_is_killed(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, GUARDED)
    assert "Timeout (>2.0s) from pytest-timeout" in done.stdout
    assert "threading.Event().wait()" in done.stdout  # the stack
    assert "the test left processes behind" in done.stdout
    for line in ("FAILED test_hangs", "ERROR test_leaves_a_child", "PASSED test_is_not_disturbed"):
        outcome, name = line.split()
        assert re.search(rf"^{outcome} \S*{name}", done.stdout, re.MULTILINE)
    child = re.search(r"^child is (\d+)$", done.stdout, re.MULTILINE)
    assert child
    assert not processes.lives(int(child[1]))


def test_a_teardown_that_hangs_ends_the_run(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, NEVER_TORN_DOWN)
    assert done.returncode not in (0, None)
    assert "most recent call first" in done.stderr


def test_a_process_that_is_shared_is_left_alone() -> None:
    others = processes.children()  # of other tests in this process
    child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    try:
        assert child.pid in processes.children()
        processes.SHARED.add(child.pid)
        assert processes.end_children(others) == []
        processes.SHARED.discard(child.pid)
        [ended] = processes.end_children(processes.children() - {child.pid})
        assert ended == f"{child.pid}: sleep 1000"
        assert child.wait(processes.PATIENCE_SECONDS) < 0
        assert child.pid not in processes.children()
    finally:
        processes.SHARED.discard(child.pid)
        processes.kill_group(child)
        child.wait(processes.PATIENCE_SECONDS)
