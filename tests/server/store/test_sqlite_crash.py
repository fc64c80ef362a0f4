"""What other processes, and the end of this one, do to a SQLite store.

Killing a process proves that nothing depends on its memory. It proves nothing
about a loss of power, where SQLite's synchronous=FULL is taken at its word.
"""

# The loop is these tests' own: they may block it.
# ruff: noqa: ASYNC222, ASYNC251

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import PATIENCE_SECONDS
from store_process import KEY, OPERATIONS, blobs_at

from server.store.base import Commit, LeaseHeldError, LogRecord, Record
from server.store.sqlite import SQLiteStore

SCRIPT = Path(__file__).with_name("store_process.py")
ROOT = Path(__file__).parents[3]


def start(role: str, path: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), role, str(path), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """A store with one session at revision 1."""
    async with SQLiteStore(tmp_path / "store.db") as store:
        await store.create(KEY, fingerprint="f", policy="p", blobs=blobs_at(1), summary=b"")
    return tmp_path / "store.db"


async def test_sigkill_loses_and_doubles_nothing(path: Path) -> None:
    rng = random.Random(7)
    acknowledged = 1
    for _ in range(25):
        # Every run but the first repeats the commit that may have been under way when
        # the one before was killed.
        child = start("commit_forever", path, str(acknowledged))
        assert child.stdout
        acknowledged = int(child.stdout.readline())
        time.sleep(rng.uniform(0, 0.1))
        child.kill()
        lines = child.communicate()[0].split("\n")
        # The last line may be cut short.
        acknowledged = max([acknowledged, *map(int, filter(None, lines[:-1]))])

        async with SQLiteStore(path) as store:
            assert await store.check_integrity() == []
            head = await store.head(KEY)
            assert head.revision in (acknowledged, acknowledged + 1)
            assert head.version == head.revision // 2
            assert await store.read_blobs(KEY) == blobs_at(head.revision)
            assert await store.read_log(KEY, limit=10_000) == [
                LogRecord(seq, "turn", b"%d" % seq) for seq in range(1, head.revision)
            ]
            assert await store.find_reply(KEY, str(acknowledged - 1))
    assert acknowledged > 50


async def test_a_writer_stopped_past_its_lease_is_refused(path: Path) -> None:
    stopped = start("stop_past_the_lease", path)
    os.waitpid(stopped.pid, os.WUNTRACED)
    async with SQLiteStore(path) as store:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            try:
                lease = await store.acquire(KEY, "second", 60)
                break
            except LeaseHeldError as held:
                await asyncio.sleep(held.remaining_seconds)
        change = Commit(
            expected_revision=1,
            nonce="n",
            version=0,
            summary=b"",
            records=[Record("turn", b"second")],
        )
        head = await store.commit(lease, change)
        os.kill(stopped.pid, signal.SIGCONT)
        assert stopped.communicate(timeout=PATIENCE_SECONDS)[0] == "LeaseLostError\n"
        assert await store.head(KEY) == head
        assert await store.read_log(KEY) == [LogRecord(1, "turn", b"second")]


async def test_two_processes_take_turns(path: Path) -> None:
    children = [start("take_turns", path, owner) for owner in "ab"]
    for child in children:
        child.communicate(timeout=PATIENCE_SECONDS)
        assert child.returncode == 0
    async with SQLiteStore(path) as store:
        log = await store.read_log(KEY)
        for owner in "ab":
            own = [record.payload for record in log if record.kind == owner]
            assert own == [b"%d" % n for n in range(15)]
        assert (await store.head(KEY)).version == len(log) == 30
        assert await store.check_integrity() == []


async def test_a_full_disk_undoes_the_commit_and_nothing_else(path: Path) -> None:
    child = start("fill_the_disk", path)
    assert child.communicate(timeout=PATIENCE_SECONDS)[0].split() == ["full", "small", "large"]
    async with SQLiteStore(path) as store:
        assert await store.check_integrity() == []
        assert (await store.head(KEY)).revision == 3


async def test_every_step_of_every_change_may_be_the_last(tmp_path: Path) -> None:
    """Killed before each statement, begin and commit among them: the change has happened wholly or
    not at all, and can be made again. The child checks that; here is seen that it did."""
    child = start("die_at_every_statement", tmp_path / "store.db")
    lines = [line.split() for line in child.communicate(timeout=PATIENCE_SECONDS)[0].splitlines()]
    assert child.returncode == 0
    assert [name for name, *_ in lines] == list(OPERATIONS)
    steps = {name: int(statements) for name, statements, _ in lines}
    assert min(steps.values()) >= 3
    assert steps["commit"] > 20
    # Nothing is visible before its commit, which is the last statement but for a checkpoint.
    happened = {name: int(count) for name, _, count in lines}
    assert {name for name, count in happened.items() if count} <= {"delete", "delete_user"}
