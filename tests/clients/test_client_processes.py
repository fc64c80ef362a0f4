"""The client without an event loop in processes that are interrupted or end."""

from __future__ import annotations

import asyncio
import signal
import sys

import processes
from processes import soon
from scripted_server import Hang, ScriptedServer, delta

SCRIPT = """
import sys, time
from hope_client import SyncHopeClient, TextDelta
client = SyncHopeClient(sys.argv[1])
for event in client.generate("diary", "Hi"):
    if isinstance(event, TextDelta):
        print(event.text, flush=True)
"""
SOURCES = """
import sys, time
from hope_client import SyncHopeClient
def pieces():
    yield b"a" * 2_000
    print("waiting", flush=True)
    time.sleep(60)
with SyncHopeClient(sys.argv[1]) as client:
    client.ingest("diary", pieces(), document="d")
"""


async def run(script: str, server: ScriptedServer) -> asyncio.subprocess.Process:
    return await processes.start(sys.executable, "-c", script, server.target, stdout=-1, stderr=-1)


async def test_ctrl_c_cancels_the_turn(server):
    server.turns.append([delta("first"), Hang()])
    process = await run(SCRIPT, server)
    assert await soon(process.stdout.readline()) == b"first\n"
    process.send_signal(signal.SIGINT)
    await soon(server.cancelled.wait())
    _, err = await soon(process.communicate())
    assert process.returncode == -signal.SIGINT
    assert err.decode().splitlines()[-1] == "KeyboardInterrupt"


async def test_ctrl_c_does_not_wait_for_a_silent_source(server):
    process = await run(SOURCES, server)
    assert await soon(process.stdout.readline()) == b"waiting\n"
    process.send_signal(signal.SIGINT)
    _, err = await soon(process.communicate())
    assert process.returncode == -signal.SIGINT, err.decode()


async def test_a_client_that_nobody_closed_does_not_hold_up_the_end(server):
    script = SCRIPT.replace("print(event.text, flush=True)", "break")
    process = await run(f"{script}\nkept = client.generate('diary', 'Hi')\nnext(kept)", server)
    assert await soon(process.communicate()) == (b"", b"")
    assert process.returncode == 0
