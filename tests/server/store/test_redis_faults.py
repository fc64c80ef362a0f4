"""What crashes, cut connections, failovers and full memory do to a Redis store."""

# The loop is these tests' own: they may block it.
# ruff: noqa: ASYNC221

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from cutting_proxy import Cut, CuttingProxy
from redis_process import KEY, STEPS, THE_COMMIT
from valkey_process import StoreProcess, binaries

from server.store.base import (
    Commit,
    Head,
    LeaseHeldError,
    LeaseLostError,
    Record,
    SessionKey,
    StoreFullError,
)
from server.store.redis import RedisStore

ROOT = Path(__file__).parents[3]
CHILD = Path(__file__).with_name("redis_process.py")


@pytest.fixture(params=sorted(binaries()))
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreProcess]:
    process = StoreProcess(binaries()[request.param], tmp_path)
    process.start()
    yield process
    process.kill()


@pytest.fixture
async def store(server: StoreProcess) -> AsyncIterator[RedisStore]:
    """A store with one session at revision 1. Its laws hold in the end."""
    async with RedisStore(server.url) as store:
        blobs = {"fast": b"f0" * 100_000, "level": b"l0"}
        await store.create(KEY, fingerprint="f", policy="p", blobs=blobs, summary=b"")
        yield store
        assert await store.check_integrity() == []


def turn(head: Head, number: int, **fields: object) -> Commit:
    settings: dict[str, object] = {
        "expected_revision": head.revision,
        "nonce": f"turn {number}",
        "version": head.version,
        "summary": b"",
        "put_blobs": {"fast": b"%d" % number},
        "records": [Record("turn", b"%d" % number)],
    }
    return Commit(**(settings | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("step", STEPS)
async def test_a_crash_at_a_step_of_a_commit_leaves_all_of_it_or_nothing(
    server: StoreProcess, store: RedisStore, step: str
) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    command = [sys.executable, str(CHILD), server.url, step]
    assert subprocess.run(command, env=environment).returncode == -signal.SIGKILL
    head = await store.head(KEY)
    applied = step == "apply:after"
    assert (head.revision, head.version, head.log_seq) == ((2, 1, 1) if applied else (1, 0, 0))
    assert sorted(head.blobs) == (["fast", "small"] if applied else ["fast", "level"])
    assert await store.check_integrity() == []
    # What was sent in vain goes by itself.
    with server.client() as client:
        lasting = [key for key in client.scan_iter("*:chunk:*") if client.ttl(key) == -1]
        assert len(lasting) == (4 if applied else 2)
        assert len(list(client.scan_iter("*:chunk:*"))) == (2 if step == "send:before" else 4)
    with pytest.raises(LeaseHeldError):
        await store.acquire(KEY, "other", 1)
    lease = await store.acquire(KEY, "child", 10)
    assert (await store.commit(lease, THE_COMMIT)).revision == 2
    assert len(await store.read_log(KEY)) == 1


@pytest.mark.parametrize("how", ["before", "after"])
async def test_a_connection_cut_anywhere_in_a_commit_applies_it_once(
    server: StoreProcess, store: RedisStore, how: Cut
) -> None:
    async with CuttingProxy(server.port) as proxy, RedisStore(proxy.url) as far:
        lease = await far.acquire(KEY, "a", 60)
        head = await far.head(KEY)
        for at in range(8):
            proxy.cut(at, how)
            blobs = {"fast": b"%d" % at, "level": bytes([at]) * 150_000}
            wanted = turn(head, at, put_blobs=blobs, version=head.version + 1)
            head = await far.commit(lease, wanted)
            assert (head.revision, head.log_seq) == (at + 2, at + 1)
            assert proxy.has_cut or proxy.sent <= at
            assert await store.head(KEY) == head
            assert await store.check_integrity() == []
        assert [record.payload for record in await store.read_log(KEY)] == [
            b"%d" % at for at in range(8)
        ]
        proxy.cut(0, how)
        await far.fork(KEY, SessionKey("ada", "copy"))
        proxy.cut(1, how)
        await far.delete(SessionKey("ada", "copy"))


@pytest.mark.parametrize("how", ["before", "after"])
async def test_a_draw_whose_connection_was_cut_is_charged_once(
    server: StoreProcess, how: Cut
) -> None:
    async with CuttingProxy(server.port) as proxy, RedisStore(proxy.url) as far:

        async def draw(amount: float) -> float:
            return await far.draw("ada", amount, capacity=100, per_second=1e-9)

        assert await draw(1) == pytest.approx(99)  # the script is loaded now
        for taken in range(2, 6):
            proxy.cut(0, how)
            assert await draw(1) == pytest.approx(100 - taken)
            assert proxy.has_cut
            assert await draw(0) == pytest.approx(100 - taken)
    with server.client() as client:
        known = list(client.scan_iter("hope:{ada}:done:*"))
        assert len(known) == 5  # one for each draw that took something; they go by themselves
        assert all(0 < client.ttl(key) <= 600 for key in known)


async def test_a_restart_voids_leases_and_fences_go_on_growing(
    server: StoreProcess, store: RedisStore
) -> None:
    old = await store.acquire(KEY, "a", 60)
    head = await store.commit(old, turn(await store.head(KEY), 0))
    server.kill()
    server.start()
    with server.client() as client:
        client.delete("hope:number")  # as if its last writes were lost
    for call in (store.commit(old, turn(head, 1)), store.renew(old, 60)):
        with pytest.raises(LeaseLostError):
            await call
    assert await store.commit(old, turn(await store.head(KEY), 0, expected_revision=1)) == head
    new = await store.acquire(KEY, "b", 60)
    assert new.fence > old.fence
    await store.commit(new, turn(head, 1))


async def test_a_replica_that_lost_a_lease_does_not_let_the_one_before_in(
    server: StoreProcess, store: RedisStore, tmp_path: Path
) -> None:
    (tmp_path / "replica").mkdir()
    replica = StoreProcess(Path(server.command[0]), tmp_path / "replica")
    replica.start()
    try:
        async with CuttingProxy(server.port) as proxy, RedisStore(proxy.url) as far:
            paused = await far.acquire(KEY, "paused", 0.05)
            head = await far.head(KEY)
            with replica.client() as client, server.client() as primary:
                client.execute_command("REPLICAOF", "127.0.0.1", server.port)
                for _ in range(1000):
                    if client.info("replication")["master_link_status"] == "up":
                        break
                    await asyncio.sleep(0.02)
                assert primary.wait(1, 5000) == 1
                # From here on it lags behind, and what the primary does is lost.
                client.execute_command("REPLICAOF", "NO", "ONE")
            await asyncio.sleep(0.1)
            taken = await store.acquire(KEY, "b", 60)
            await store.commit(taken, turn(head, 1))
            proxy.target = replica.port
            await far.close()
            await far.open()
            assert (await far.head(KEY)).revision == 1  # lost, as the log at start-up says
            for late in (paused, taken):
                with pytest.raises(LeaseLostError):
                    await far.commit(late, turn(head, 2))
            again = await far.acquire(KEY, "c", 60)
            assert again.fence > taken.fence
            await far.commit(again, turn(head, 3))
            assert await far.check_integrity() == []
    finally:
        replica.kill()


async def test_a_full_store_says_so_and_is_usable_after(
    server: StoreProcess, store: RedisStore
) -> None:
    lease = await store.acquire(KEY, "a", 60)
    head = await store.head(KEY)
    spare = await store.create(
        SessionKey("ada", "spare"), fingerprint="f", policy="p", blobs={}, summary=b""
    )
    with server.client() as client:
        used = client.info("memory")["used_memory"]
        client.config_set("maxmemory", used + (6 << 20))
        await store.check_writable(1 << 20)
        with pytest.raises(StoreFullError):
            await store.check_writable(24 << 20)
        large = turn(head, 1, put_blobs={"fast": os.urandom(24 << 20)})
        with pytest.raises(StoreFullError):
            await store.commit(lease, large)
        # What was sent of it is given back at once.
        assert len(list(client.scan_iter("*:chunk:*"))) == 2
        assert await store.head(KEY) == head
        head = await store.commit(lease, turn(head, 2))

        client.config_set("maxmemory", 1 << 20)
        with pytest.raises(StoreFullError):
            await store.check_writable()
        with pytest.raises(StoreFullError):
            await store.commit(lease, turn(head, 3))
        with pytest.raises(StoreFullError):
            await store.create(
                SessionKey("ada", "new"), fingerprint="f", policy="p", blobs={}, summary=b""
            )
        # Reading, leases and erasing need no room.
        assert await store.head(KEY) == head
        assert (await store.read_blobs(KEY))["fast"] == b"2"
        lease = await store.renew(lease, 60)
        await store.release(lease)
        lease = await store.acquire(KEY, "b", 60)
        await store.delete(spare.key)
        client.config_set("maxmemory", 0)
    head = await store.commit(lease, turn(head, 4))
    assert head.log_seq == 2
