"""A process that commits to a Redis store and dies at a step of it:

python redis_process.py URL STEP

STEP is "send" or "apply", before or after it: "send:before".
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

from server.store.base import Commit, Record, SessionKey
from server.store.redis import RedisStore
from server.store.redis.transaction import Transactions

KEY = SessionKey("ada", "notes")
STEPS = ("send:before", "send:after", "apply:before", "apply:after")
THE_COMMIT = Commit(
    expected_revision=1,
    nonce="the one",
    version=1,
    summary=b"new",
    put_blobs={"fast": b"f1" * 100_000, "small": b"s"},
    drop_blobs=frozenset({"level"}),
    records=[Record("turn", b"1")],
)


def dying_at(step: str) -> type[Transactions]:
    name, when = step.split(":")

    class Dying(Transactions):
        pass

    async def run(self: Transactions, *arguments: Any, **named: Any) -> Any:
        if when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        await getattr(Transactions, name)(self, *arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(Dying, name, run)
    return Dying


async def main(url: str, step: str) -> None:
    async with RedisStore(url) as store:
        lease = await store.acquire(KEY, "child", 60)
        store._transactions = dying_at(step)(store._connection)
        await store.commit(lease, THE_COMMIT)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
