"""The `hope` command: what it prints for people and for programs, and its exit codes."""

from __future__ import annotations

import json
import signal

import grpc
import pytest
from hope.v1 import inference_pb2 as pb
from hope.v1 import sessions_pb2
from hope_client.cli import main
from processes import soon
from scripted_server import UNAVAILABLE, Failure, Hang, delta, reply, status

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


async def test_info(hope):
    code, out, _ = await hope("info")
    assert code == 0
    assert "tiny" in out
    assert "24.0 MB" in out
    _, out, _ = await hope("info", "--json")
    assert json.loads(out)["max_state_bytes"] == 24_000_000


async def test_sessions_life(server, hope):
    assert await hope("sessions", "create", "notes", "--policy", "p") == (
        0,
        "Created users/local/sessions/notes.\n",
        "",
    )
    _, out, _ = await hope("sessions", "list")
    assert [line.split()[0] for line in out.splitlines()] == ["session", "diary", "notes"]
    server.sessions[DIARY].other_base = True
    _, out, error = await hope("sessions", "list")
    said = "1 of 2 sessions belong to another base model than the server runs"
    assert f"{said}, and take no turn until it is served: diary." in " ".join((out + error).split())
    server.sessions[DIARY].other_base = False
    _, out, _ = await hope("sessions", "list", "--json")
    assert [each["name"] for each in json.loads(out)["sessions"]] == [
        DIARY,
        "users/local/sessions/notes",
    ]
    _, out, _ = await hope("sessions", "fork", "diary", "copy", "--json")
    assert json.loads(out)["name"] == "users/local/sessions/copy"
    _code, out, _ = await hope("sessions", "rollback", "diary", "2")
    assert out == "Rolled back to version 2; the session is now at version 5.\n"
    _, out, _ = await hope("sessions", "delete", "notes", "--json")
    assert json.loads(out) == {"deleted": "users/local/sessions/notes"}
    assert "users/local/sessions/notes" not in server.sessions


async def test_sessions_learning(server, hope):
    code, out, _ = await hope("sessions", "consolidate", "diary")
    assert code == 0
    assert out.startswith("learning ... done in 0.")
    assert out.endswith(" s, 30 spans, surprise 4.1 -> 0.3\n")
    code, out, _ = await hope("sessions", "end-conversation", "diary", "c", "--json")
    assert json.loads(out)["consolidations"][0]["duration_seconds"] is None
    code, out, _ = await hope("sessions", "end-conversation", "diary", "--no-wait")
    assert out == "The conversation ended; the server is learning it in the background.\n"
    server.consolidations = []
    assert (await hope("sessions", "consolidate", "diary"))[1] == "learning ... nothing to learn\n"


async def test_a_job_is_joined_again_when_the_connection_breaks(server, hope):
    server.failures["ForgetDocument"] += [Failure(grpc.StatusCode.UNAVAILABLE)] * 2
    code, out, _ = await hope("sessions", "forget", "diary", "gossip")
    assert (code, out) == (0, "Forgot gossip; the session is now at version 5.\n")
    assert len(server.requests["ForgetDocument"]) == 3
    code, out, _ = await hope("sessions", "cancel-job", "diary")
    assert (code, out) == (0, f"{DIARY} has no running job; it is at version 5.\n")
    server.failures["ForgetDocument"].append(
        Failure(grpc.StatusCode.ABORTED, "The job was cancelled.", "JOB_CANCELLED")
    )
    code, _, err = await hope("sessions", "forget", "diary", "gossip")
    assert (code, err) == (1, "hope: The job was cancelled.\n")


async def test_snapshots(server, hope):
    assert (await hope("sessions", "snapshot", "diary", "kept"))[
        1
    ] == "Version 4 is kept as snapshot kept.\n"
    _, out, _ = await hope("sessions", "snapshots", "diary", "--json")
    assert [each["version"] for each in json.loads(out)["snapshots"]] == [4]
    code, out, _ = await hope("sessions", "delete-snapshot", "diary", "kept")
    assert (code, out) == (0, "Deleted snapshot kept.\n")
    assert server.snapshots == {}
    assert (await hope("sessions", "delete-snapshot", "diary", "kept"))[0] == 1


async def test_export_and_import(server, hope, tmp_path):
    path = tmp_path / "diary.hope"
    code, out, _ = await hope("sessions", "export", "diary", str(path), "--json")
    assert (code, json.loads(out)) == (0, {"file": str(path), "bytes": path.stat().st_size})
    code, out, err = await hope("sessions", "export", "diary", str(path))
    assert (code, out) == (1, "")
    assert err == f"hope: {path} already exists; choose another file\n"
    code, out, _ = await hope("sessions", "import", "twin", str(path))
    assert (code, out) == (0, "Imported users/local/sessions/twin with 0 log records.\n")
    missing = tmp_path / "missing"
    code, _, err = await hope("sessions", "import", "other", str(missing))
    assert (code, err) == (1, f"hope: {missing}: No such file or directory\n")
    assert (await hope("sessions", "export", "nobody", str(missing)))[0] == 1
    assert not missing.exists()


async def test_delete_user(server, hope):
    server.add("users/ada/sessions/dreams")
    code, out, err = await hope("--user", "ada", "sessions", "delete-user")
    assert (code, out) == (2, "")
    assert err == "hope: this would permanently delete every session of ada; confirm with --yes\n"
    code, out, _ = await hope("--user", "ada", "sessions", "delete-user", "--yes")
    assert (code, out) == (0, "Deleted 1 sessions of ada.\n")
    assert list(server.sessions) == [DIARY]


async def test_show(server, hope):
    level = sessions_pb2.LevelStatus(
        period_tokens=4096, rank=32, updates=3, relative_norm=0.0123, learnt_tokens=12_288,
        surprise_before_nats=4.1, surprise_after_nats=0.3,
    )  # fmt: skip
    server.sessions[DIARY].levels.append(level)
    server.sessions[DIARY].memory_hash = "abc"
    server.documents["novel.txt"] += b"12345"
    code, out, _ = await hope("sessions", "show", "diary")
    assert code == 0
    assert "4.10 -> 0.30" in out
    assert "document novel.txt: 5 B, open" in out
    assert out.endswith("version 4, memory hash abc\n")
    _, out, _ = await hope("sessions", "show", "diary", "--json")
    shown = json.loads(out)
    assert shown["memory_version"] == 4
    assert shown["create_time"] is None
    assert shown["levels"][0]["learnt_tokens"] == 12_288
    [document] = shown["documents"]
    assert len(document.pop("content_digest")) == 64
    assert document == {"name": "novel.txt", "committed_bytes": 5, "ended": False}


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


FAILURES = {
    "missing session": (
        ["sessions", "show", "nobody"],
        "hope: Session users/local/sessions/nobody does not exist; "
        "`hope sessions list` lists what exists",
    ),
    "missing snapshot": (
        ["sessions", "delete-snapshot", "diary", "none"],
        f"hope: Snapshot {DIARY}/snapshots/none does not exist; "
        "`hope sessions snapshots diary` lists what exists",
    ),
    "missing file": (
        ["ingest", "/nowhere/novel.txt", "--session", "diary"],
        "hope: /nowhere/novel.txt: No such file or directory",
    ),
    "name taken": (["sessions", "create", "diary"], f"hope: {DIARY} exists"),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_errors_are_one_line_and_exit_1(hope, name):
    words, line = FAILURES[name]
    code, out, err = await hope(*words)
    assert (code, out, err) == (1, "", f"{line}\n")


async def test_json_tells_errors_too(server, hope):
    code, out, err = await hope("sessions", "show", "nobody", "--json")
    assert code == 1
    assert json.loads(out) == {
        "error": {
            "code": "NOT_FOUND",
            "reason": "SESSION_NOT_FOUND",
            "message": "Session users/local/sessions/nobody does not exist",
            "field": "",
            "retry_after_seconds": None,
        }
    }
    assert err.startswith("hope: Session users/local/sessions/nobody does not exist")


async def test_an_invalid_field_is_named(server, hope):
    server.turns.append(
        [Failure(grpc.StatusCode.INVALID_ARGUMENT, "must be at most 2", field="temperature")]
    )
    code, _, err = await hope("generate", "diary", "Hi", "--temperature", "9")
    assert (code, err) == (1, "hope: temperature: must be at most 2\n")


NOT_UTF8 = (
    "hope: standard input: byte 3 (counted from 0) is not UTF-8 text; if the text is in Latin-1 or "
    "Windows-1252, convert it with `iconv -f WINDOWS-1252 -t UTF-8`\n"
)


async def test_text_that_is_not_utf8(hope):
    code, _, err = await hope("score", "diary", "-", stdin=b"caf\xe9")
    assert (code, err) == (1, NOT_UTF8)


async def test_a_method_the_server_lacks(server, hope):
    server.failures["Consolidate"].append(Failure(grpc.StatusCode.UNIMPLEMENTED, "not yet"))
    code, _, err = await hope("sessions", "consolidate", "diary")
    assert (code, err) == (
        1,
        f"hope: The server at {server.target} does not support this: not yet\n",
    )


async def test_a_deadline(server, hope):
    server.turns.append([Hang()])
    code, _, err = await hope("generate", "diary", "Hi", "--timeout-seconds", "0.2")
    assert (code, err) == (1, "hope: The server did not answer within 0.2 s (--timeout-seconds).\n")


async def test_debugging_shows_the_traceback(hope, monkeypatch):
    monkeypatch.setenv("HOPE_DEBUG", "1")
    with pytest.raises(Exception, match="nobody"):
        await hope("sessions", "show", "nobody")


def test_no_server(capsys):
    for target in ("127.0.0.1:1", "localhost:port"):
        assert main(["--server", target, "info"]) == 1
        assert capsys.readouterr().err == (
            f"hope: Cannot reach a server at {target}; start one with `hope serve`, "
            "or name another with --server.\n"
        )


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
