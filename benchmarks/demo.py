"""The main job, shown: teach a session in a chat, restart the server, ask in a new conversation.

    python -m benchmarks.demo [further arguments of `hope serve`]

Everything goes through the server's public API. The same questions are put to the frozen base
model, which is what a session is before it was taught anything.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from hope.v1 import inference_pb2 as pb
from hope.v1 import sessions_pb2
from hope_client import HopeClient
from rich.console import Console
from rich.table import Table

from benchmarks.local_server import local_server
from hope_lab.evaluate.data.filler import load_text

SESSION = "demo"
FROZEN = "frozen"
DOCUMENT = "king-james.txt"  # the text that `hope evaluate` reads in between, too
DOCUMENT_CHARS = 4000  # about a thousand tokens


@dataclass(frozen=True)
class Fact:
    """A statement, a question in other words, and the value that the answer must contain."""

    told: str
    question: str
    value: str


FACTS = (
    Fact("My name is Tamsin.", "What is my name?", "Tamsin"),
    Fact("I live in Porto.", "Where do I live?", "Porto"),
    Fact("I work as a welder.", "What is my job?", "welder"),
    Fact("Zanthor lives in Nairobi.", "Which city is Zanthor's home?", "Nairobi"),
    Fact("Zanthor has a pet ferret.", "What pet does Zanthor have?", "ferret"),
    Fact("Brisa Oldane plays the harp.", "What instrument does Brisa Oldane play?", "harp"),
    Fact(
        "Brisa Oldane's favourite colour is crimson.",
        "What is Brisa Oldane's favourite colour?",
        "crimson",
    ),
    Fact("Yelena's door code is 4821.", "What is the code of Yelena's door?", "4821"),
)
MESSAGES = (FACTS[0:3], FACTS[3:5], FACTS[5:7], FACTS[7:8])
SAMPLING = pb.Sampling(max_tokens=32)


async def teach(client: HopeClient, console: Console) -> list[sessions_pb2.Consolidation]:
    """Chats, reads a document in between, ends the conversation. Returns what was learnt."""
    await client.sessions.create(SESSION)
    for facts in MESSAGES:
        text = " ".join(fact.told for fact in facts)
        console.print(f"[bold]you[/]  {text}")
        reply = await client.say(SESSION, text, sampling=SAMPLING)
        console.print(f"[dim]hope {reply.text}[/]")
    text = load_text(None)[:DOCUMENT_CHARS]
    console.print(f"\nreading {len(text)} characters of {DOCUMENT} ...")
    started = time.monotonic()
    read = await client.ingest(SESSION, text, document=DOCUMENT, conversation="reading")
    console.print(f"read and learnt {read.tokens} tokens in {time.monotonic() - started:.0f} s")
    console.print("ending the conversation and learning ...")
    ended = await client.sessions.end_conversation(SESSION)
    return list(ended.consolidations)


async def ask(client: HopeClient, console: Console) -> tuple[int, int]:
    """Asks everything in a new conversation, beside the frozen base. Returns both scores."""
    await client.sessions.get_or_create(FROZEN)
    table = Table("question", "frozen base model", "this session")
    scores = [0, 0]
    for index, fact in enumerate(FACTS):
        replies = []
        for column, session in enumerate((FROZEN, SESSION)):
            reply = await client.say(
                session,
                fact.question,
                conversation=f"question-{index}",
                ephemeral=True,
                sampling=SAMPLING,
            )
            hit = fact.value.lower() in reply.text.split("\n")[0].lower()
            scores[column] += hit
            mark = "[green]yes[/]" if hit else "[red]no [/]"
            replies.append(f"{mark} {reply.text.strip()[:90]}")
        table.add_row(fact.question, *replies)
    console.print(table)
    return scores[0], scores[1]


def show_session(session: sessions_pb2.Session, console: Console) -> None:
    """Per-level drift and the size of the state."""
    table = Table("level", "learns every", "rank", "updates", "drift |BA|/|W|", "surprise")
    for index, level in enumerate(session.levels):
        surprise = "-"
        if level.HasField("surprise_before_nats"):
            surprise = f"{level.surprise_before_nats:.2f} -> {level.surprise_after_nats:.2f} nats"
        table.add_row(
            str(index),
            f"{level.period_tokens} tokens",
            str(level.rank),
            str(level.updates),
            f"{level.relative_norm:.2e}",
            surprise,
        )
    console.print(table)
    console.print(
        f"memory version {session.memory_version}, {session.learnable_tokens} learnable tokens "
        f"seen, {session.state_bytes / 1e6:.1f} MB of state, hash {session.memory_hash[:16]}"
    )


async def main(*server: str) -> int:
    """`server` are further arguments of `hope serve`."""
    console = Console(highlight=False)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        database = Path(directory) / "demo.db"
        console.rule("1  teach")
        with local_server(database, *server) as address:
            async with HopeClient(address) as client:
                await teach(client, console)
                before = await client.sessions.get(SESSION)
        console.rule("2  restart the server")
        with local_server(database, *server) as address:
            async with HopeClient(address) as client:
                session = await client.sessions.get(SESSION)
                same = session.memory_hash == before.memory_hash
                console.print(f"memory hash unchanged: {'yes' if same else 'NO'}")
                console.rule("3  ask in a new conversation")
                frozen, recalled = await ask(client, console)
                show_session(session, console)
    total = len(FACTS)
    console.print(
        f"recalled {recalled} of {total}; the frozen base model {frozen} of {total}; "
        f"{time.monotonic() - started:.0f} s in all on {len(os.sched_getaffinity(0))} cores"
    )
    return 0 if same and recalled > frozen else 1


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main(*sys.argv[1:])))
