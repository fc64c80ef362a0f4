"""Ten fixed conversations through the public API: replies, memory hashes and stored state.

    python -m benchmarks.replies > now.json
    python -m benchmarks.replies --against before.json

A refactoring changes none of them: replies are greedy in float32 on one thread, so they agree token
for token, and a memory's hash covers every bit that its levels learnt. Run it in a checkout of the
older commit and in the newer one, on one machine. About three minutes of one core, one minute of it
for the two sessions that practise under the default policy.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from hope.v1 import inference_pb2 as pb
from hope_client import HopeClient

from benchmarks.local_server import local_server

SAMPLING = pb.Sampling(max_tokens=24, temperature=0.0)
# Policy, what is said before the conversation ends, and what is asked in a new one.
CONVERSATIONS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("summed_gradient", ("My name is Tamsin.", "I live in Porto."), ("What is my name?",)),
    ("summed_gradient", ("The Otter's Rest opens at six.",), ("When does it open?", "Thanks.")),
    ("summed_gradient", ("Write a line about rain.", "Another one."), ("And one about snow.",)),
    ("forward", ("Zanthor lives in Nairobi.",), ("Where does Zanthor live?",)),
    ("forward", ("My sister is called Clara.", "She plays chess."), ("What is she called?",)),
    ("forward", ("Ich wohne in Kiel.",), ("Wo wohne ich?", "What is 12 plus 30?")),
    ("unguarded", (), ("What is the capital of France?", "How many people live there?")),
    ("unguarded", (), ("def fib(n):", "Explain what it does.")),
    ("default", ("My dog is called Rex.",), ("What is my dog called?",)),
    ("default", ("Brisa Oldane plays the harp.",), ("What does Brisa Oldane play?",)),
)


async def hold(client: HopeClient, number: int) -> dict[str, Any]:
    """One conversation: what was answered, and what the session is afterwards."""
    policy, told, asked = CONVERSATIONS[number]
    name = f"fixed-{number}"
    await client.sessions.create(name, policy=policy)
    replies = [
        (await client.say(name, text, conversation="told", sampling=SAMPLING)).text for text in told
    ]
    if told:
        await client.sessions.end_conversation(name, "told")
    for text in asked:
        turn = await client.say(name, text, conversation="asked", learn=False, sampling=SAMPLING)
        replies.append(turn.text)
    session = await client.sessions.get(name)
    return {
        "policy": policy,
        "replies": replies,
        "memory_hash": session.memory_hash,
        "version": session.memory_version,
    }


async def run(address: str) -> list[dict[str, Any]]:
    async with HopeClient(address) as client:
        return [await hold(client, number) for number in range(len(CONVERSATIONS))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, help="JSON of an earlier run to compare with")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        options = ("--dtype", "float32", "--threads", "1")
        with local_server(Path(directory) / "sessions.db", *options) as address:
            found = asyncio.run(run(address))
    text = json.dumps(found, indent=1, ensure_ascii=False)
    if args.against is None:
        print(text)
        return 0
    before = json.loads(args.against.read_text("utf-8"))
    differing = [
        index for index, pair in enumerate(zip(before, found, strict=True)) if pair[0] != pair[1]
    ]
    for index in differing:
        print(f"conversation {index}:\n  before {before[index]}\n  now    {found[index]}")
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    print(f"{len(found) - len(differing)} of {len(found)} conversations are the same ({digest})")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
