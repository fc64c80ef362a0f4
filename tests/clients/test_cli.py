"""The `hope` command: what turns, scores and files print for people and for programs."""

from __future__ import annotations

import json
import signal

import pytest
from hope.v1 import inference_pb2 as pb
from hope.v1 import sessions_pb2
from processes import soon
from scripted_server import UNAVAILABLE, delta, reply, status

DIARY = "users/local/sessions/diary"


async def test_generate_streams_text_to_stdout(server, hope):
    server.turns.append([status(pb.STATUS_LEARNING), *reply("Hel", "lo")])
    code, out, err = await hope(
        "generate", "diary", "Hi", "--system", "Be brief.", "--temperature", "0.5",
        "--max-tokens", "9", "--stop", "END", "--no-learn", "--conversation", "c",
        "--request-id", "r",
    )  # fmt: skip
    assert (code, out) == (0, "Hello\n")
    assert "learning from earlier turns" in err
    [request] = server.requests["Generate"]
    assert [message.content for message in request.messages] == ["Be brief.", "Hi"]
    given = pb.Sampling(temperature=0.5, max_tokens=9, stop=["END"], seed=request.sampling.seed)
    assert request.sampling == given
    assert request.learn_options.learn is False
    assert (request.conversation, request.request_id) == ("c", "r")


async def test_generate_beside_learning(server, hope):
    half = pb.StatusUpdate(status=pb.STATUS_LEARNING, learning_level=1, learning_fraction=0.5)
    *text, last = reply("Hello")
    last.result.learning = True
    last.result.usage.memory_version = 7
    server.turns.append([pb.GenerateResponse(status=half), *text, last])
    code, out, err = await hope("generate", "diary", "Hi")
    assert (code, out) == (0, "Hello\n")
    assert "learning from earlier turns ... level 1: 50%" in err
    assert err.endswith("(still learning from earlier turns; answered with memory version 7)\n")


async def test_generate_over_a_broken_connection(server, hope):
    server.turns.extend([[delta("It is"), UNAVAILABLE], reply("It is", " so")])
    code, out, err = await hope("generate", "diary", "Hi")
    assert (code, out) == (0, "It is so\n")
    assert err.startswith("connection lost, retrying in 0.")
    server.turns.extend([[delta("It is"), UNAVAILABLE], reply("It was", " so")])
    code, out, err = await hope("generate", "diary", "Hi")
    assert (code, out) == (0, "It is\nIt was so\n")
    assert err.endswith("(connection lost; the reply starts over)\n")


async def test_generate_json(hope):
    code, out, _ = await hope("generate", "diary", "-", "--json", stdin="Hi")
    answer = json.loads(out)
    assert code == 0
    assert answer["text"] == "You said: Hi"
    assert answer["finish_reason"] == "FINISH_REASON_STOP"
    assert answer["replayed"] is False
    assert answer["usage"] == {
        "input_tokens": 5,
        "output_tokens": 2,
        "learnable_tokens": 0,
        "surprise_nats": None,
        "memory_version": 2,
        "queue_time_seconds": None,
        "prefill_time_seconds": None,
        "decode_time_seconds": None,
        "cached_input_tokens": 0,
    }


async def test_score(hope, tmp_path):
    path = tmp_path / "text"
    path.write_text("some text")
    code, out, _ = await hope("score", "diary", str(path))
    assert (code, out) == (
        0,
        "10 tokens, 2.000 nats per token, perplexity 7.4, memory version 3\n",
    )
    code, out, _ = await hope("score", "diary", "-", "--frozen", "--json", stdin="x")
    assert json.loads(out) == {
        "tokens": 10,
        "total_nats": 20.0,
        "memory_version": 3,
        "nats_per_token": 2.0,
        "perplexity": pytest.approx(7.389, abs=1e-3),
    }


async def test_the_version_that_is_asked(server, hope):
    assert (await hope("score", "diary", "-", "--at-version", "0", stdin="x"))[0] == 0
    code, out, _ = await hope("generate", "diary", "Hi", "--at-version", "2")
    assert (code, out) == (0, "You said: Hi\n")
    asked = [server.requests[name][0] for name in ("Score", "Generate")]
    assert [each.HasField("at_version") for each in asked] == [True, True]
    assert [each.at_version for each in asked] == [0, 2]


async def test_info(hope):
    code, out, _ = await hope("info")
    assert code == 0
    assert "tiny" in out
    assert "24.0 MB" in out
    _, out, _ = await hope("info", "--json")
    assert json.loads(out)["max_state_bytes"] == 24_000_000


async def test_ingest_resumes_where_it_stopped(server, hope, tmp_path):
    path = tmp_path / "novel.txt"
    path.write_bytes(b"a" * 5_000)
    server.documents["novel.txt"] += b"a" * 2_000
    code, out, err = await hope("ingest", str(path), "--session", "diary")
    assert code == 0
    assert err == "Resuming novel.txt at byte 2,000 of 5,000.\n"
    assert out.startswith("Read novel.txt: 5.0 kB, 750 tokens in ")
    assert bytes(server.documents["novel.txt"]) == path.read_bytes()
    code, out, _ = await hope("ingest", str(path), "--session", "diary")
    assert (code, out) == (0, "novel.txt was already read completely (5,000 bytes).\n")
    path.write_bytes(b"another text")
    code, _, err = await hope("ingest", str(path), "--session", "diary")
    assert code == 1
    assert "name this one with --document" in err


async def test_ingest_json_lines(server, hope, tmp_path):
    path = tmp_path / "novel.txt"
    path.write_bytes(b"a" * 2_500)
    server.ingest_breaks.append((1_000, UNAVAILABLE))
    code, out, _ = await hope(
        "ingest", str(path), "--session", "diary", "--json", "--keep-open", "--no-learn"
    )
    events = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [event["event"] for event in events] == [
        "start",
        "progress",
        "resuming",
        "progress",
        "result",
    ]
    assert events[0] == {
        "event": "start",
        "document": "novel.txt",
        "committed_bytes": 0,
        "total_bytes": 2_500,
    }
    assert events[-1]["ended"] is False
    assert server.requests["Ingest"][0].learn_options.learn is False


async def test_ingest_from_a_pipe(server, spawn):
    process = await spawn("ingest", "-", "--session", "diary", "--document", "d")
    out, err = await process.communicate(b"piped " * 1_000)
    assert (process.returncode, err) == (0, b"")
    assert out.startswith(b"Read d: 6.0 kB, 1,500 tokens")
    assert bytes(server.documents["d"]) == b"piped " * 1_000


async def test_an_interrupted_ingest_says_how_to_go_on(server, spawn):
    process = await spawn("ingest", "-", "--session", "diary", "--document", "d")
    process.stdin.write(b"a" * 2_000)
    await process.stdin.drain()
    await soon(server.until_committed("d", 2_000))
    process.send_signal(signal.SIGINT)  # while the pipe is silent
    err = await soon(process.stderr.read())
    assert await soon(process.wait()) == 130
    assert err.decode().splitlines() == [
        "Stopped. The committed part is kept; run the same command to resume."
    ]


async def test_drift(server, hope):
    server.add(DIARY)
    code, out, err = await hope("drift", "diary")
    assert (code, out) == (0, "")
    assert "No drift was measured" in err
    for version, norm in ((1, 0.01), (2, 0.04)):
        server.consolidations.append(
            sessions_pb2.Consolidation(
                level=1,
                memory_version=version,
                drift=sessions_pb2.LevelDrift(relative_norm=norm, effective_rank=3.25),
                probes=sessions_pb2.ProbeFigures(frozen_nats=2, adapted_nats=2.05),
            )
        )
    code, out, _ = await hope("drift", "diary")
    title, _, first, second = out.splitlines()
    assert (code, title.partition(":")[0]) == (0, "level 1")
    assert first.count("█") * 4 == second.count("█") == 32
    assert "+2.50%" in first
    _, out, _ = await hope("drift", "diary", "--json")
    found = json.loads(out)["consolidations"]
    assert [each["memory_version"] for each in found] == [0, 1, 2]
    assert found[0]["drift"] is None
    assert found[2]["drift"]["relative_norm"] == 0.04
