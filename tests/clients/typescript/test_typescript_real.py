"""The TypeScript client against a real server: the memory is that of the Python client, also where
the connection breaks, and the README's example runs."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typescript_build
from fault_proxy import fault_proxy
from hope_client import HopeClient, Sampling, Sessions, SyncHopeClient
from node_client import NodeClient, in_bytes
from real_server import RealServer

FACTS = "My cat is called Ada. She is seven years old and she sleeps on the piano all day long. "
NOVEL = (
    "The harbour lay still. A gull cried over the roofs, and no one in the street heard it. " * 16
)
SAMPLING = {"maxTokens": 24, "temperature": 0.5}
BREAKS = 4


async def told(client: NodeClient, session: str) -> str:
    """A turn that is sampled, a document and the end of the conversation; the reply as streamed."""
    options = {"sampling": SAMPLING, "requestId": "once"}
    text = ""
    for event in await client.call("generate", session, FACTS, options):
        if event["type"] == "restarted":
            text = ""
        elif event["type"] == "delta":
            text += event["text"]
    assert event["text"] == text
    options = {"document": "novel", "chunkBytes": 500}
    assert (await client.call("ingest", session, in_bytes(NOVEL.encode()), options))["ended"]
    await client.call("sessions.endConversation", session)
    return text


async def learnt(client: HopeClient, session: str, reply: str) -> tuple[Any, ...]:
    now = await client.sessions.get(session)
    assert now.learnable_tokens > 256
    assert now.pending_tokens == 0
    return now.memory_hash, now.log_records, now.memory_version, reply


async def test_it_teaches_what_the_python_client_teaches(
    real_server: RealServer, start_node: Any
) -> None:
    node = await start_node(real_server.target)
    assert await node.call("serving")
    async with HopeClient(real_server.target) as python:
        await python.sessions.create("by-python", policy="quick")
        await node.call("sessions.create", "by-node", {"policy": "quick"})
        result = await python.say(
            "by-python", FACTS, sampling=Sampling(max_tokens=24, temperature=0.5), request_id="once"
        )
        await python.ingest("by-python", NOVEL, document="novel", chunk_bytes=500)
        await python.sessions.end_conversation("by-python")
        expected = await learnt(python, "by-python", result.text)
        assert await learnt(python, "by-node", await told(node, "by-node")) == expected
        twin = await node.call(
            "sessions.import", "node-twin", await node.call("sessions.export", "by-node")
        )
        assert twin["memoryHash"] == expected[0]
        version = twin["memoryVersion"]
        assert (await node.call("sessions.diff", "by-node", 0, version))["levels"]
        assert await node.call("sessions.consolidations", "by-node", {"pageSize": 2})
        forgot = await node.call("sessions.forgetDocument", "by-node", "novel")
        assert forgot["documents"] == []
        assert (await node.call("score", "by-node", FACTS))["tokens"] > 0
        base = await node.call("score", "by-node", FACTS, {"atVersion": 0})
        assert base["memoryVersion"] == 0
        assert base["totalNats"] == (await python.score("by-node", FACTS, frozen=True)).total_nats
        answer = await node.call("say", "by-node", FACTS, {"atVersion": 0})
        assert answer["text"] == (await python.say("by-node", FACTS, at_version=0)).text
        [cat] = await node.call("sessions.statements", "by-node", "cat")
        assert "Ada" in cat["text"]
        none = {"document": "novel", "rehearsedOnly": True}
        assert await node.call("sessions.statements", "by-node", "cat", none) == []
        await node.call("sessions.forgetStatements", "by-node", [cat["id"]])
        assert await node.call("sessions.statements", "by-node", "cat") == []
        assert await node.call("sessions.statements", "by-node", "seven")


async def test_wherever_the_connection_breaks_everything_is_learnt_once(
    real_server: RealServer, start_node: Any
) -> None:
    async with HopeClient(real_server.target) as direct, fault_proxy(real_server.port) as proxy:
        await direct.sessions.create("node-calm", policy="quick")
        calm = await start_node(proxy.target)
        undisturbed = await learnt(direct, "node-calm", await told(calm, "node-calm"))
        whole = proxy.passed
        for index in range(BREAKS):
            session = f"node-torn-{index}"
            await direct.sessions.create(session, policy="quick")
            # One break somewhere in all that the server says, another soon after it.
            proxy.cuts.extend([whole * (index + 1) // (BREAKS + 1), 200])
            node = await start_node(proxy.target)
            assert await learnt(direct, session, await told(node, session)) == undisturbed
            assert not proxy.cuts


async def test_the_readmes_example(real_server: RealServer, tmp_path: Path) -> None:
    module = typescript_build.compiled()
    readme = (typescript_build.PACKAGE / "README.md").read_text("utf-8")
    [example] = re.findall(r"```ts\n(.*?)```", readme, re.DOTALL)
    assert len(example.strip().splitlines()) <= 10
    # As a reader has it, but for where the server listens and whose session it is.
    made = f'new HopeClient("{real_server.target}", {{ user: "reader" }})'
    assert example.count("new HopeClient()") == 1
    (tmp_path / "example.mts").write_text(example.replace("new HopeClient()", made))
    modules = tmp_path / "node_modules"
    modules.mkdir()
    (modules / "hope-client").symlink_to(module.parents[1])
    (modules / "@types").symlink_to(typescript_build.MODULES / "@types")
    compiler = typescript_build.MODULES / ".bin" / "tsc"
    options = ["--strict", "--target", "es2022", "--module", "nodenext", "--skipLibCheck"]
    with SyncHopeClient(real_server.target, user="reader") as client:
        client.sessions.create("diary", policy="quick")
    for command in ([compiler, *options, "example.mts"], ["node", "example.mjs"]):
        done = await asyncio.to_thread(
            subprocess.run, command, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()
    with SyncHopeClient(real_server.target, user="reader") as client:
        session = client.sessions.get("diary")
    assert session.memory_version > 0  # the first turn was learnt


def test_it_has_the_methods_of_the_python_client(tmp_path: Path) -> None:
    module = typescript_build.compiled()
    code = f"""
import {{ HopeClient, Sessions }} from "{module}";
const methods = (kind) =>
  kind === Object.prototype
    ? []
    : [...Object.getOwnPropertyNames(kind), ...methods(Object.getPrototypeOf(kind))];
console.log(JSON.stringify([HopeClient, Sessions].map((kind) => methods(kind.prototype))));
"""
    script = tmp_path / "methods.mjs"
    script.write_text(code)
    done = subprocess.run(["node", script], capture_output=True, text=True, check=True)
    for kind, methods in zip((HopeClient, Sessions), json.loads(done.stdout), strict=True):
        names = {name.rstrip("_") for name in vars(kind) if name[0] != "_"}
        camels = {re.sub(r"_(\w)", lambda found: found[1].upper(), name) for name in names}
        assert camels <= set(methods)


@pytest.mark.parametrize("file", ["package.json", "README.md"])
def test_the_package_says_which_node_it_needs(file: str) -> None:
    text = (typescript_build.PACKAGE / file).read_text("utf-8")
    assert re.search(rf"(>=|Node ){typescript_build.OLDEST_NODE}\b", text)
