"""A second process on a store, run by the tests beside this file:

    python store_process.py ROLE PATH [ARGUMENT]

Prints one line for each thing that a test waits for.
"""

import asyncio
import os
import resource
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from server.store.base import (
    Commit,
    Lease,
    LeaseHeldError,
    Record,
    SessionKey,
    StoredReply,
    StoreError,
    StoreFullError,
)
from server.store.sqlite import SQLiteStore

KEY = SessionKey("ada", "notes")


def blobs_at(revision: int) -> dict[str, bytes]:
    """What the committer's session holds at a revision: a level that changes with every
    second commit and a fast memory that changes with each."""
    return {
        "fast": (b"%08d" % revision) * 5_000,
        "level": (b"%08d" % (revision // 2)) * 40_000,
    }


async def commit_forever(path: str, revision: str) -> None:
    """Commit on top of `revision`, where an earlier run may have committed already
    without living to say so; print every revision that was acknowledged."""
    async with SQLiteStore(path) as store:
        lease = await store.acquire(KEY, "committer", 60)
        for at in range(int(revision), sys.maxsize):
            await store.commit(
                lease,
                Commit(
                    expected_revision=at,
                    nonce=f"commit {at}",
                    version=(at + 1) // 2,
                    summary=b"%d" % at,
                    put_blobs=blobs_at(at + 1),
                    records=[Record("turn", b"%d" % at)],
                    reply=StoredReply(
                        request_id=str(at), body_digest=b"", payload=b"", expires_at=4e9
                    ),
                ),
            )
            print(at + 1, flush=True)
            if at % 4 == 0:
                await store.collect(KEY, 3)


async def stop_past_the_lease(path: str) -> None:
    async with SQLiteStore(path) as store:
        lease = await store.acquire(KEY, "stopped", 0.2)
        os.kill(os.getpid(), signal.SIGSTOP)
        try:
            await store.commit(
                lease,
                Commit(
                    expected_revision=1,
                    nonce="late",
                    version=0,
                    summary=b"",
                    records=[Record("turn", b"late")],
                ),
            )
        except StoreError as error:
            print(type(error).__name__, flush=True)


async def take_turns(path: str, owner: str) -> None:
    async with SQLiteStore(path) as store:
        done = 0
        while done < 15:
            try:
                lease = await store.acquire(KEY, owner, 60)
            except LeaseHeldError:
                await asyncio.sleep(0.002)
                continue
            head = await store.head(KEY)
            await store.commit(
                lease,
                Commit(
                    expected_revision=head.revision,
                    nonce=f"{owner} {done}",
                    version=head.version + 1,
                    summary=b"",
                    records=[Record(owner, b"%d" % done)],
                ),
            )
            await store.release(lease)
            done += 1


async def fill_the_disk(path: str) -> None:
    """Meet a limit on the size of files, then go on when it is lifted."""
    async with SQLiteStore(path) as store:
        head = await store.head(KEY)
        lease = await store.acquire(KEY, "filler", 60)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
        large = Commit(
            expected_revision=1,
            nonce="large",
            version=1,
            summary=b"",
            put_blobs={"large": os.urandom(3_000_000)},
            records=[Record("turn", b"large")],
        )
        try:
            await store.commit(lease, large)
        except StoreFullError:
            print("full", flush=True)
        assert await store.head(KEY) == head
        assert await store.read_blobs(KEY)
        assert await store.check_integrity() == []
        small = Commit(expected_revision=1, nonce="small", version=0, summary=b"s")
        head = await store.commit(lease, small)
        print("small", flush=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        again = Commit(
            expected_revision=2, nonce="again", version=1, summary=b"", put_blobs=large.put_blobs
        )
        await store.commit(lease, again)
        assert await store.check_integrity() == []
        print("large", flush=True)


# What a process can be in the middle of, from the state that `prepare` makes.
OPERATIONS: dict[str, Callable[[SQLiteStore, Lease], Awaitable[object]]] = {
    "commit": lambda store, lease: store.commit(
        lease,
        Commit(
            expected_revision=4,
            nonce="last",
            version=4,
            summary=b"new",
            put_blobs={"level": b"new", "other": b"made"},
            drop_blobs=frozenset({"fast"}),
            records=[Record("turn", b"x"), Record("learn", b"y")],
            reply=StoredReply(request_id="r", body_digest=b"", payload=b"p", expires_at=4e9),
            ends_job=True,
        ),
    ),
    "rollback": lambda store, lease: store.rollback(
        lease, expected_revision=4, nonce="last", to_version=1, record=Record("rollback", b"1")
    ),
    "collect": lambda store, _: store.collect(KEY, 1),
    "fork": lambda store, _: store.fork(KEY, SessionKey("ada", "copy"), version=2),
    "snapshot": lambda store, _: store.snapshot(KEY, "named"),
    "save_job": lambda store, lease: store.save_job(
        lease, request=b"r", progress=b"2", put_blobs={"level": b"2"}, drop_blobs=frozenset({"x"})
    ),
    "end_job": lambda store, lease: store.end_job(lease),
    "acquire": lambda store, _: store.acquire(KEY, "a", 60),
    "delete": lambda store, _: store.delete(KEY),
    "delete_user": lambda store, _: store.delete_user("ada"),
}


async def prepare(path: Path) -> Lease:
    async with SQLiteStore(path, clock=lambda: 1e9) as store:
        blobs = {"fast": b"fast", "level": b"0"}
        await store.create(KEY, fingerprint="f", policy="p", blobs=blobs, summary=b"")
        lease = await store.acquire(KEY, "a", 60)
        for version in range(1, 4):
            change = Commit(
                expected_revision=version,
                nonce=f"{version}",
                version=version,
                summary=b"",
                put_blobs={"level": b"%d" % version},
                records=[Record("learn", b"%d" % version)],
            )
            await store.commit(lease, change)
        made = {"level": b"1", "x": b"made"}
        await store.save_job(lease, request=b"r", progress=b"1", put_blobs=made)
        return lease


async def contents(path: Path) -> list[object]:
    """Everything that a store can be asked for; asserts that it is sound."""
    async with SQLiteStore(path, clock=lambda: 1e9) as store:
        assert await store.check_integrity() == []
        found: list[object] = [await store.jobs(), await store.user_bytes("ada")]
        for head in (await store.list_sessions("ada"))[0]:
            found += [
                replace(head, incarnation=0),
                await store.read_blobs(head.key),
                await store.read_log(head.key),
                await store.versions(head.key),
                await store.snapshots(head.key),
                await store.find_reply(head.key, "r"),
                head.job and await store.read_job(head.key),
            ]
        return found


async def operate(path: Path, name: str, lease: Lease, last_statement: int) -> int:
    """Run an operation; end the process before the given statement of it, counted from 1.
    Returns how many statements there were."""
    count = 0

    def before_statement(_: str) -> None:
        nonlocal count
        count += 1
        if count == last_statement:
            os.kill(os.getpid(), signal.SIGKILL)

    async with SQLiteStore(path, clock=lambda: 1e9) as store:
        await store._run(lambda connection: connection.set_trace_callback(before_statement))
        await OPERATIONS[name](store, lease)
        await store._run(lambda connection: connection.set_trace_callback(None))
    return count


def die_at_every_statement(path: str) -> None:
    """Print for each operation its statements, and after how many of the deaths it had
    happened."""
    original = Path(path)
    lease = asyncio.run(prepare(original))
    before = asyncio.run(contents(original))
    for name in OPERATIONS:
        whole = original.with_name(f"{name}.db")
        shutil.copy(original, whole)
        statements = asyncio.run(operate(whole, name, lease, 0))
        after = asyncio.run(contents(whole))
        happened = 0
        for statement in range(1, statements + 1):
            trial = original.with_name(f"{name} {statement}.db")
            shutil.copy(original, trial)
            child = os.fork()
            if not child:
                asyncio.run(operate(trial, name, lease, statement))
                os._exit(0)
            assert os.waitpid(child, 0)[1] == signal.SIGKILL
            found = asyncio.run(contents(trial))
            assert found in (before, after), (name, statement)
            happened += found == after != before
            if found == before:
                asyncio.run(operate(trial, name, lease, 0))
                assert asyncio.run(contents(trial)) == after, (name, statement)
        print(name, statements, happened, flush=True)


if __name__ == "__main__":
    work = globals()[sys.argv[1]](*sys.argv[2:])
    if work is not None:
        asyncio.run(work)
