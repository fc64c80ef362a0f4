"""Every program in examples/, run as a reader runs it against a real server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hope_client import SyncHopeClient
from processes import PATIENCE_SECONDS
from real_server import RealServer

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FACTS = "My cat is called Ada. She is seven years old and she sleeps on the piano all day long."


@pytest.fixture
def client(real_server: RealServer) -> Iterator[SyncHopeClient]:
    with SyncHopeClient(real_server.target) as client:
        yield client


def run(server: RealServer, name: str, *arguments: str | Path, typed: str = "") -> list[str]:
    """Lines that an example prints."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments],
        env=os.environ | {"HOPE_SERVER": server.target},
        input=typed,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_each_is_run_and_told_about() -> None:
    programs = {path.name for path in EXAMPLES.glob("*.py")}
    table = (EXAMPLES / "README.md").read_text("utf-8")
    assert set(re.findall(r"examples/(\w+\.py)", table)) - {"test_examples.py"} == programs
    here = Path(__file__).read_text("utf-8")
    assert all(f'"{name}"' in here for name in programs)


def test_the_chat_bot_learns_when_the_conversation_ends(
    real_server: RealServer, client: SyncHopeClient
) -> None:
    client.sessions.create("bot", policy="quick")
    lines = run(real_server, "chat_bot.py", "bot", typed=f"{FACTS}\nWho is Ada?\n\n")
    session = client.sessions.get("bot")
    assert lines[0].startswith("you> ")
    assert lines[-1].endswith(f"memory version {session.memory_version}")
    assert session.memory_version > 0
    assert session.learnable_tokens > 20
    assert list(session.conversations) == []
    run(real_server, "chat_bot.py", "bot", typed="Hello\n")  # the input ends without an empty line
    assert client.sessions.get("bot").log_records > session.log_records


def test_a_folder_is_read_once(
    real_server: RealServer, client: SyncHopeClient, tmp_path: Path
) -> None:
    (tmp_path / "more").mkdir()
    for name in ("a.txt", "more/b.md", "picture.png"):
        (tmp_path / name).write_text(f"{name}: {FACTS}\n" * 3)
    client.sessions.create("folder", policy="quick")
    # One of them was begun before.
    begun = (tmp_path / "a.txt").read_bytes()[:40]
    client.ingest("folder", begun, document="a.txt", end_of_document=False)
    first = run(real_server, "ingest_folder.py", tmp_path, "folder")
    assert [line.split(":")[0] for line in first] == ["a.txt", "more/b.md"]
    session = client.sessions.get("folder")
    assert {each.name: each.ended for each in session.documents} == {
        "a.txt": True,
        "more/b.md": True,
    }
    again = run(real_server, "ingest_folder.py", tmp_path, "folder")
    assert again == ["a.txt: read before", "more/b.md: read before"]
    assert client.sessions.get("folder") == session


def test_a_comparison_shows_the_memory_and_teaches_nothing(
    real_server: RealServer, client: SyncHopeClient
) -> None:
    client.sessions.create("compared", policy="quick")
    for _ in range(3):
        client.say("compared", FACTS)
    taught = client.sessions.end_conversation("compared").session
    assert taught.memory_version > 0
    names = {each.name for each in client.sessions.list()}
    lines = run(real_server, "compare.py", "compared", "What is my cat called?", FACTS)
    nats = {
        label: float(value)
        for label, value in re.findall(r"(with memory|without): ([\d.]+) nats", "\n".join(lines))
    }
    assert nats["with memory"] < nats["without"]
    assert client.sessions.get("compared") == taught
    assert {each.name for each in client.sessions.list()} == names
