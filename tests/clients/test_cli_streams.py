"""The command with closed, narrow and broken standard streams: never a traceback."""

from __future__ import annotations

import subprocess

import pytest
from processes import soon
from scripted_server import reply

OLD = "café \u4e2d \U0001f63a"


async def in_shell(spawn, line: str, **environment: str) -> tuple[int, str, str]:
    """What a shell makes of `line`, in which "$@" is the command."""
    process = await spawn(shell=line, environment=environment, stdin=subprocess.DEVNULL)
    out, err = await soon(process.communicate())
    return process.returncode, out.decode(errors="replace"), err.decode(errors="replace")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    "command", ["info", "sessions list", "generate diary Hi", "sessions show diary --json"]
)
async def test_closed_streams(server, spawn, closed, command) -> None:
    code, out, err = await in_shell(spawn, f'"$@" {command} {closed}')
    assert code == 0
    assert "Traceback" not in err
    assert bool(out) == (">&-" not in closed.replace("2>&-", ""))


@pytest.mark.parametrize("command", ["chat diary", "generate diary -", "score diary -"])
async def test_a_closed_input_is_an_empty_one(server, spawn, command) -> None:
    code, _, err = await in_shell(spawn, f'"$@" {command} <&-')
    assert code == 0
    assert "Traceback" not in err


async def test_a_document_from_a_closed_input(server, spawn) -> None:
    code, _, err = await in_shell(spawn, '"$@" ingest - --document d --session diary <&-')
    assert (code, err) == (
        1,
        "hope: standard input: the document is empty\n",
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
async def test_a_narrow_encoding_gets_replacements(server, spawn, encoding) -> None:
    server.turns.extend([reply(OLD), reply(OLD)])
    code, out, err = await in_shell(
        spawn, '"$@" generate diary Hi', PYTHONIOENCODING=encoding, PYTHONUTF8="0"
    )
    assert (code, err) == (0, "")
    assert out.startswith("caf")
    assert out.endswith("? ?\n")
    code, out, _ = await in_shell(
        spawn, '"$@" generate diary Hi --json', PYTHONIOENCODING=encoding, PYTHONUTF8="0"
    )
    assert code == 0
    assert "\\u4e2d" in out  # JSON loses nothing


async def test_input_is_utf8_whatever_the_locale(server, spawn) -> None:
    process = await spawn(
        *("generate", "diary", "-"), environment={"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    )
    await soon(process.communicate(b"\xef\xbb\xbf" + OLD.encode()))
    assert process.returncode == 0
    assert server.requests["Generate"][0].messages[-1].content == OLD  # without the mark


async def test_a_line_of_a_piped_chat_that_is_not_utf8(server, spawn) -> None:
    process = await spawn("chat", "diary")
    _, err = await soon(process.communicate(b"Hi\ncaf\xe9\nnever said\n"))
    assert process.returncode == 1
    assert err.decode().splitlines()[-1].startswith("hope: standard input, line 2: byte 3 ")
    assert len(server.requests["Generate"]) == 1


@pytest.mark.parametrize(
    "command", ["sessions show diary", "generate diary Hi", "sessions show diary --json"]
)
async def test_a_reader_that_left(server, spawn, command) -> None:
    code, _, err = await in_shell(spawn, f'{{ "$@" {command}; echo "code $?" >&2; }} | true')
    assert code == 0
    assert "Traceback" not in err
    assert "Exception" not in err
    assert "code" in err
