"""Errors of the `hope` command: one line each, and exit codes."""

from __future__ import annotations

import json

import grpc
import pytest
from hope_client.cli import main
from scripted_server import Failure, Hang

DIARY = "users/local/sessions/diary"
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
