"""`hope completion`: what real shells make of its scripts, with and without a server."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import processes
import pytest
from hope_client.cli import main
from scripted_server import UNAVAILABLE

# What readline does when TAB is pressed behind each line, and what it would show.
IN_BASH = r"""
eval "$(hope completion bash)"
while IFS= read -r COMP_LINE; do
    COMP_POINT=${#COMP_LINE} COMP_TYPE=9 COMPREPLY=()
    _python_argcomplete hope
    (IFS="|"; echo "${COMPREPLY[*]}")
done
"""


@pytest.fixture
def shell_environment(server, tmp_path: Path, monkeypatch) -> dict[str, str]:
    """An environment with the command on its path and the scripted server as its server."""
    command = tmp_path / "bin" / "hope"
    command.parent.mkdir()
    command.write_text(
        f"#!{sys.executable}\nimport sys\nfrom hope_client.cli import main\nsys.exit(main())\n"
    )
    command.chmod(0o755)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "novel.txt").write_text("Once")
    (tmp_path / "notes.md").write_text("Once")
    monkeypatch.chdir(tmp_path)
    return {
        **os.environ,
        "PATH": f"{command.parent}:{os.environ['PATH']}",
        "HOPE_SERVER": server.target,
        "HOME": str(tmp_path),
        "TERM": "dumb",
    }


async def in_bash(environment: dict[str, str], *lines: str) -> list[list[str]]:
    if shutil.which("bash") is None:
        pytest.skip("there is no bash here")
    process = await processes.start(
        *("bash", "--norc", "-c", IN_BASH), env=environment, stdin=-1, stdout=-1
    )
    said = "".join(f"{line}\n" for line in lines).encode()
    out, _ = await processes.soon(process.communicate(said))
    answers = out.decode().splitlines()
    assert len(answers) == len(lines)
    return [[each.rstrip() for each in line.split("|") if each] for line in answers]


async def test_bash_completes_commands_options_and_files(shell_environment):
    lines = {
        "hope se": ["serve", "sessions"],
        "hope sessions end": ["end-conversation"],
        "hope --user ada sessions sn": ["snapshot", "snapshots"],
        "hope generate diary Hi --te": ["--temperature"],
        "hope sessions delete diary --y": ["--yes"],
        "hope serve --key": ["--key-database"],
        "hope serve --dat": ["--database"],
        "hope completion ": ["bash", "zsh", "fish"],
        "hope ingest no": ["notes.md"],
        "hope ingest tex": ["texts/"],
        "hope ingest texts/": ["texts/novel.txt"],
        "hope generate diary no": [],  # a text, not a file
    }
    assert await in_bash(shell_environment, *lines) == list(lines.values())


async def test_bash_completes_what_the_server_knows(server, shell_environment):
    session = server.add("users/local/sessions/diving", conversations=["morning", "evening"])
    server.add("users/ada/sessions/dreams")
    server.documents["novel.txt"] += b"12345"
    lines = {
        "hope chat d": ["diary", "diving"],
        "hope sessions show div": ["diving"],
        "hope --user ada chat ": ["dreams"],
        f"hope chat {session.name[:-3]}": [session.name],
        "hope ingest notes.md --session dia": ["diary"],
        "hope sessions create d": [],  # a new name
        "hope chat diving --conversation ": ["morning", "evening"],
        "hope sessions forget diary n": ["novel.txt"],
    }
    assert await in_bash(shell_environment, *lines) == list(lines.values())


async def test_a_server_that_fails_or_is_silent_is_not_waited_for(server, shell_environment):
    server.failures["ListSessions"].append(UNAVAILABLE)
    assert await in_bash(shell_environment, "hope chat d") == [[]]
    nobody = {**shell_environment, "HOPE_SERVER": "127.0.0.1:1"}
    assert await in_bash(nobody, "hope chat d") == [[]]
    silent = await asyncio.start_server(lambda *_: asyncio.Event().wait(), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    deaf = {**shell_environment, "HOPE_SERVER": f"127.0.0.1:{port}"}
    assert await in_bash(deaf, "hope chat d") == [[]]  # and ends, without an answer
    silent.close()


@pytest.mark.parametrize(
    ("shell", "options", "before"),
    [
        ("bash", ["--norc", "--noprofile", "-i"], ""),
        ("zsh", ["-f", "-i"], "autoload -Uz compinit; compinit -D; "),
    ],
)
async def test_the_tab_key(shell_environment, shell, options, before):
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    terminal = await processes.AtTerminal.start(shell, *options, env=shell_environment)
    try:
        terminal.type(f'{before}eval "$(hope completion {shell})"; echo rea""dy\n'.encode())
        await terminal.until(b"ready\r")
        terminal.type(b"hope sessions sho")
        await terminal.until(b"sho")
        terminal.type(b"\t")
        await terminal.until(b"w")
    finally:
        await terminal.end()


async def test_fish(server, shell_environment):
    if shutil.which("fish") is None:
        pytest.skip("there is no fish here")
    server.add("users/local/sessions/diving")
    process = await processes.start(
        *("fish", "--no-config", "-c"),
        "hope completion fish | source; complete -C 'hope sessions sho'; complete -C 'hope chat d'",
        env=shell_environment,
        stdout=-1,
    )
    out, _ = await processes.soon(process.communicate())
    found = [line.split("\t")[0].strip() for line in out.decode().splitlines()]
    assert found == ["show", "diary", "diving"]


def test_a_script_is_printed_without_grpc():
    script = (
        "import sys\n"
        "from hope_client.cli import main\n"
        "main(['completion', 'bash'])\n"
        "assert not {'grpc', 'google'} & set(sys.modules), 'too much'\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert b"complete" in done.stdout


def test_an_unknown_shell(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["completion", "tcsh"])
    assert caught.value.code == 2
    assert "bash" in capsys.readouterr().err
