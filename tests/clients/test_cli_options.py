"""The command line of `hope`: its options, what is passed on, and how fast help is."""

from __future__ import annotations

import argparse
import subprocess
import sys
from types import ModuleType

import pytest
from hope_client.cli import main
from hope_client.cli.parser import build_parser
from hope_client.cli.terminal import printable


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["dance"],
        ["sessions"],
        ["ingest", "x"],
        ["--user", "ada", "serve"],
        ["info", "--timeout-seconds", "0"],
        ["info", "--timeout-seconds", "inf"],
        ["generate", "diary", "Hi", "--max-tokens", "-1"],
        ["generate", "diary", "Hi", "--seed", "18446744073709551616"],
        ["sessions", "rollback", "diary", "-1"],
        ["sessions", "reset", "diary", "4294967296"],
        ["sessions", "diff", "diary", "one", "2"],
        ["completion"],
    ],
)
def test_a_wrong_command_line_exits_2_with_one_line_that_says_where_help_is(words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("hope")
    assert "--help`" in err


def test_standard_input_needs_a_document_name(capsys):
    assert main(["ingest", "-", "--session", "diary"]) == 2
    assert "--document" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "module"),
    [
        ("serve", "server.main"),
        ("evaluate", "hope_lab.evaluate"),
        ("train", "hope_lab.train.cli"),
    ],
)
def test_passed_on_commands(command, module, monkeypatch):
    stand_in = ModuleType(module)
    given: list[list[str]] = []
    stand_in.main = given.append
    monkeypatch.setitem(sys.modules, module, stand_in)
    if "." in module:
        monkeypatch.setitem(sys.modules, module.split(".")[0], ModuleType(module.split(".")[0]))
    assert main([command, "--port", "1", "--help"]) == 0
    assert given == [["--port", "1", "--help"]]


def test_a_missing_server_package_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "server", None)
    monkeypatch.delitem(sys.modules, "server.main", raising=False)
    assert main(["serve"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "install the package hope-server" in err


def test_help_imports_neither_grpc_nor_rich():
    script = (
        "import sys\n"
        "from hope_client.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'grpc', 'google', 'rich', 'asyncio'} & set(sys.modules), 'too much'\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_control_characters_do_not_reach_the_terminal():
    assert printable("a\x1b[31mb\x07\n\tc\x9bé") == "a[31mb\n\tcé"


TURN_OPTIONS = (
    "--conversation --system --no-learn --ephemeral --max-tokens --temperature --top-k --top-p "
    "--min-p --repetition-penalty --seed --stop"
)
OPTIONS = {
    "": "--server --user --timeout-seconds --token-file --tls --ca-file --cert-file --key-file",
    "serve": "",
    "evaluate": "",
    "train": "",
    "chat": f"SESSION {TURN_OPTIONS}",
    "generate": f"SESSION TEXT {TURN_OPTIONS} --request-id --at-version --json",
    "ingest": "FILE|DIR|- --session --document --include --replace --as-text --conversation "
    "--no-learn --keep-open --budget --detach --status --cancel --json",
    "completion": "SHELL",
    "score": "SESSION FILE|- --context --frozen --at-version --json",
    "memory": "",
    "memory list": "SESSION --query --document --rehearsed --json",
    "memory forget": "SESSION ID --json",
    "drift": "SESSION --json",
    "info": "--json",
    "health": "--json",
    "bench": "--sessions --seconds --rate --max-tokens --seed --json",
    "sessions": "",
    "sessions list": "--json",
    "sessions create": "--json SESSION --display-name --policy",
    "sessions show": "SESSION --json",
    "sessions delete": "SESSION --json --yes",
    "sessions fork": "SESSION --json NEW_SESSION --version",
    "sessions snapshot": "SESSION --json NAME",
    "sessions snapshots": "SESSION --json",
    "sessions delete-snapshot": "SESSION --json NAME",
    "sessions delete-user": "--json --yes",
    "sessions rename": "SESSION --json TEXT",
    "sessions reset": "SESSION --json LEVEL",
    "sessions forget": "SESSION --json DOCUMENT",
    "sessions migrate": "SESSION --json --policy",
    "sessions cancel-job": "SESSION --json",
    "sessions export": "SESSION --json FILE",
    "sessions import": "SESSION --json FILE",
    "sessions diff": "SESSION --json FROM TO",
    "sessions rollback": "SESSION --json VERSION",
    "sessions consolidate": "SESSION --json",
    "sessions end-conversation": "SESSION --json CONVERSATION --no-wait",
}


PRINTS_FOR_PEOPLE_ONLY = {
    "",
    "serve",
    "evaluate",
    "chat",
    "completion",
    "memory",
    "sessions",
    "train",
}


def test_whatever_a_program_would_read_is_there_as_json():
    for command, options in OPTIONS.items():
        assert ("--json" in options) == (command not in PRINTS_FOR_PEOPLE_ONLY), command


def test_every_command_and_option_is_explained():
    def visit(parser: argparse.ArgumentParser) -> None:
        for action in parser._actions:
            assert action.help or isinstance(action, argparse._SubParsersAction), (
                f"{parser.prog} {action.metavar or action.option_strings}"
            )
            if isinstance(action, argparse._SubParsersAction):
                explained = [each.dest for each in action._choices_actions if each.help]
                assert explained == list(action.choices)
                for child in action.choices.values():
                    if child.add_help:
                        assert child.description
                        visit(child)

    visit(build_parser())


def test_the_command_line_is_the_documented_one():
    found: dict[str, str] = {}

    def visit(parser: argparse.ArgumentParser, path: str) -> None:
        words = []
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, child in action.choices.items():
                    visit(child, f"{path} {name}".strip())
            elif action.dest != "help":
                words.append(action.option_strings[0] if action.option_strings else action.metavar)
        globals_here = OPTIONS[""].split() if path else []
        found[path] = " ".join(word for word in words if word not in globals_here)

    visit(build_parser(), "")
    assert found == OPTIONS
