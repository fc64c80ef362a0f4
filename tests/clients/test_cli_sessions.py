"""`hope sessions`: what each action prints for people and for programs."""

from __future__ import annotations

import json

import grpc
from hope.v1 import sessions_pb2
from scripted_server import Failure

DIARY = "users/local/sessions/diary"


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
