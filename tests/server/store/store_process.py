"""A second process on a store, run by the tests beside this file:

    python store_process.py ROLE PATH [ARGUMENT]

Prints one line for each thing that a test waits for.
"""

import asyncio
import os
import resource
import signal
import sys

from server.store.base import (
    Commit,
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


if __name__ == "__main__":
    asyncio.run(globals()[sys.argv[1]](*sys.argv[2:]))
