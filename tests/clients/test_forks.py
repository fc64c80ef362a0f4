"""Clients in programs that fork: web servers that load before they fork, task queues, pools.

Every program is a process of its own, because a fork of this one would copy the threads of servers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import processes
import pytest
from scripted_server import Hang, ScriptedServer, delta, reply

BEGINNING = """
import asyncio, multiprocessing, os, sys, threading
import hope_client as hope
from hope_client import HopeClient, SyncHopeClient

TARGET = sys.argv[1]

def outcome(work):
    try:
        return work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def in_child(work):
    "What `work` gives in a forked child, or how that ended."
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, str(outcome(work)).encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as answer:
        said = answer.read()
    status = os.waitpid(child, 0)[1]
    return said if status == 0 else f"status {status}"

def ask_anew():
    with SyncHopeClient(TARGET, timeout_seconds=60) as client:
        client.sessions.get("diary")
        return client.sessions.get("diary").name

client = SyncHopeClient(TARGET, timeout_seconds=60)
client.sessions.get("diary")
"""

PROGRAMS = {
    "the parent's client": """
print(in_child(lambda: client.sessions.get("diary")))
print(in_child(lambda: next(client.generate("diary", "Hi"))))
print(in_child(lambda: list(client.sessions.list())))
print(in_child(lambda: client.close()))
print(client.sessions.get("diary").name)
""",
    "a client of its own": """
for _ in range(5):
    print(in_child(ask_anew))
    client.sessions.get("diary")
print(in_child(lambda: in_child(ask_anew)))  # a child's child
""",
    "multiprocessing": """
context = multiprocessing.get_context("fork")
with context.Pool(2) as pool:
    print(sorted(pool.apply(ask_anew) for _ in range(3)))
""",
    "a call under way": """
events = client.generate("diary", "Hi")
print(next(events).text)
print(in_child(ask_anew))
print(in_child(lambda: next(events)))
events.close()
print(in_child(ask_anew))
""",
    "an async client": """
async def main():
    async with HopeClient(TARGET) as mine:
        await mine.sessions.get("diary")
        print(in_child(ask_anew))
        print(in_child(lambda: asyncio.run(mine.sessions.get("diary"))))
    print(in_child(ask_anew))
asyncio.run(main())
async def ask():
    async with HopeClient(TARGET) as other:
        return (await other.sessions.get("diary")).name
print(in_child(lambda: asyncio.run(ask())))
""",
    "threads that go on": """
ended = threading.Event()
def talk():
    while not ended.is_set():
        client.sessions.get("diary")
threads = [threading.Thread(target=talk) for _ in range(3)]
for thread in threads:
    thread.start()
found = {in_child(ask_anew).partition(":")[0] for _ in range(20)}
ended.set()
for thread in threads:
    thread.join()
print(found <= {"users/local/sessions/diary", "ClientForkedError"})
print(in_child(ask_anew))
""",
}
DIARY = "users/local/sessions/diary"
MADE_BEFORE = (
    "ClientForkedError: the client was made before this process was forked; make a new one here"
)
SPOILT = "ClientForkedError: this process was forked while a client of its parent was in use"
CRASHED = ("status 11", "status 6")
RIGHT: dict[str, list[str | tuple[str, ...]]] = {
    "the parent's client": [MADE_BEFORE] * 3 + ["None", DIARY],
    "a client of its own": [DIARY] * 6,
    "multiprocessing": [str([DIARY] * 3)],
    # With a call under way gRPC's own fork handlers may end the child; it never hangs.
    "a call under way": ["first", (SPOILT, *CRASHED), (MADE_BEFORE, *CRASHED), DIARY],
    "an async client": [SPOILT, MADE_BEFORE, DIARY, DIARY],
    "threads that go on": ["True", DIARY],
}


@pytest.fixture
def turns(server: ScriptedServer) -> Iterator[ScriptedServer]:
    server.turns.extend([[delta("first"), Hang()], reply("again")])
    return server


@pytest.mark.parametrize("name", PROGRAMS)
async def test_a_forked_child(turns: ScriptedServer, name: str) -> None:
    process = await processes.start(
        *(sys.executable, "-c", BEGINNING + PROGRAMS[name], turns.target), stdout=-1, stderr=-1
    )
    out, err = await processes.soon(process.communicate())
    lines = out.decode().splitlines()
    assert process.returncode == 0, err.decode()
    for said, right in zip(lines, RIGHT[name], strict=True):
        assert said.startswith(right), (lines, err.decode())
