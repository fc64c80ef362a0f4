"""The command line: every command, option and help text, and nothing that acts on them.

A command is the name of a function, `module:function` within this package, which
`app.py` imports and calls.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with a command line, and where help is."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see `{self.prog} --help`\n")


def _whole_number(bits: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        number = int(text)
        if not 0 <= number < 1 << bits:
            raise argparse.ArgumentTypeError(f"must be 0 or more, and below 2^{bits}")
        return number

    read.__name__ = "whole number"  # argparse puts it into its messages
    return read


_uint32, _uint64 = _whole_number(32), _whole_number(64)

_SAMPLING: tuple[tuple[str, Callable[[str], int | float], str], ...] = (
    ("--max-tokens", _uint32, "longest reply, in tokens"),
    ("--temperature", float, "0 takes the likeliest token, up to 2 the more adventurous"),
    ("--top-k", _uint32, "choose among the k likeliest tokens"),
    ("--top-p", float, "choose among the likeliest tokens with this probability together"),
    ("--min-p", float, "drop tokens below this share of the likeliest one"),
    ("--repetition-penalty", float, "above 1 discourages tokens already in the reply"),
    ("--seed", _uint64, "the same seed gives the same reply"),
)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = _Parser(
        prog="hope",
        description="Talk to a hope server: sessions whose memory learns while it is served.",
        epilog="A session is named by its last part, `diary` for users/USER/sessions/diary.",
        allow_abbrev=False,
    )
    _add_global_options(parser, top=True)
    # Global options are understood after a command as well, but there they must
    # not overwrite with their defaults what came before it.
    shared = _Parser(add_help=False)
    _add_global_options(shared, top=False)
    commands = _Commands(
        parser.add_subparsers(dest="command", metavar="COMMAND", required=True), shared
    )
    commands.add_bare("serve", "run a server (its options: `hope serve --help`)")
    _add_turns(commands)
    _add_sessions(commands, shared)
    drift = commands.add("drift", "drift:drift", "show how learning moved a session, by version")
    drift.add_argument("session", metavar="SESSION", help="session that is shown")
    _add_json(drift)
    info = commands.add("info", "info:info", "what the server runs")
    _add_json(info)
    health = commands.add(
        "health", "info:health", "exit with 0 if the server takes calls, with 1 if not"
    )
    _add_json(health)
    commands.add_bare("evaluate", "run the papers' tasks (its options: `hope evaluate --help`)")
    commands.add_bare("train", "train a native model (its options: `hope train --help`)")
    _add_completion(commands)
    return parser


class _Commands:
    """Subcommands that share the global options."""

    def __init__(
        self,
        subparsers: argparse._SubParsersAction[_Parser],
        shared: _Parser,
    ) -> None:
        self._subparsers = subparsers
        self._shared = shared

    def add(self, name: str, run: str, summary: str) -> _Parser:
        parser = self._subparsers.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            parents=[self._shared],
            allow_abbrev=False,
        )
        parser.set_defaults(run=run)
        return parser

    def add_bare(self, name: str, summary: str) -> _Parser:
        return self._subparsers.add_parser(name, help=summary, add_help=False)


def _add_global_options(parser: argparse.ArgumentParser, *, top: bool) -> None:
    def default(value: object) -> object:
        return value if top else argparse.SUPPRESS

    group = parser.add_argument_group("global options")
    group.add_argument(
        "--server",
        metavar="HOST:PORT",
        default=default(os.environ.get("HOPE_SERVER") or "127.0.0.1:50051"),
        help="server to talk to (HOPE_SERVER; default 127.0.0.1:50051)",
    )
    group.add_argument(
        "--user",
        default=default(os.environ.get("HOPE_USER") or "local"),
        help="whose sessions short names mean (HOPE_USER; default local)",
    )
    group.add_argument(
        "--timeout-seconds",
        type=_positive_seconds,
        metavar="S",
        default=default(None),
        help="give up a call after this long (default: never; an ingest has no limit)",
    )

    group.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        default=default(_path_from("HOPE_TOKEN_FILE")),
        help="bearer token that says who you are (HOPE_TOKEN_FILE; or HOPE_TOKEN, the token)",
    )
    group.add_argument(
        "--tls",
        action="store_true",
        default=default(bool(os.environ.get("HOPE_TLS"))),
        help="connect by TLS and trust what gRPC trusts (HOPE_TLS=1)",
    )
    for option, variable, summary in (
        ("--ca-file", "HOPE_CA_FILE", "connect by TLS and trust these authorities (PEM;"),
        ("--cert-file", "HOPE_CERT_FILE", "your certificate, where servers ask for one (PEM;"),
        ("--key-file", "HOPE_KEY_FILE", "its private key (PEM;"),
    ):
        group.add_argument(
            option,
            type=Path,
            metavar="FILE",
            default=default(_path_from(variable)),
            help=f"{summary} {variable})",
        )


def _path_from(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value) if value else None


def _add_completion(commands: _Commands) -> None:
    completion = commands.add(
        "completion", "", "print a script that makes a shell complete this command"
    )
    completion.add_argument(
        "shell", choices=("bash", "zsh", "fish"), metavar="SHELL", help="bash, zsh or fish"
    )
    completion.formatter_class = argparse.RawDescriptionHelpFormatter
    completion.epilog = """\
bash: put  eval "$(hope completion bash)"  into ~/.bashrc
zsh:  put  eval "$(hope completion zsh)"  into ~/.zshrc, after compinit
fish: hope completion fish > ~/.config/fish/completions/hope.fish
"""


def _add_turns(commands: _Commands) -> None:
    chat = commands.add("chat", "chat:chat", "chat in the terminal; /help there lists commands")
    chat.add_argument(
        "session",
        nargs="?",
        default="default",
        metavar="SESSION",
        help="session to chat with, made if it is missing (default: default)",
    )
    _add_turn_options(chat)

    generate = commands.add("generate", "turns:generate", "run one turn and print the reply")
    generate.add_argument("session", metavar="SESSION", help="session that answers")
    generate.add_argument("text", metavar="TEXT", help="what is said; - reads standard input")
    _add_turn_options(generate)
    generate.add_argument("--request-id", default="", help="a repeated id gives the stored reply")
    _add_json(generate)

    ingest = commands.add("ingest", "ingest:ingest", "read a document into a session")
    ingest.add_argument(
        "file",
        metavar="FILE|-",
        help="UTF-8 text, - for standard input: always the whole document, from its beginning",
    )
    ingest.add_argument("--session", required=True, metavar="SESSION", help="session that reads")
    ingest.add_argument("--document", default="", metavar="NAME", help="default: the file's name")
    ingest.add_argument(
        "--conversation",
        default="",
        metavar="NAME",
        help="window that it enters (default: default)",
    )
    ingest.add_argument("--no-learn", action="store_true", help="read it without learning from it")
    ingest.add_argument("--keep-open", action="store_true", help="the document is not complete yet")
    _add_json(ingest, "print JSON lines, one an event")

    score = commands.add("score", "turns:score", "measure how surprising a text is to a session")
    score.add_argument("session", metavar="SESSION", help="session that is asked")
    score.add_argument("file", metavar="FILE|-", help="UTF-8 text, - for standard input")
    score.add_argument("--context", default="", metavar="TEXT", help="comes before, not scored")
    score.add_argument("--frozen", action="store_true", help="score with the base model instead")
    _add_json(score)


def _add_sessions(commands: _Commands, shared: _Parser) -> None:
    group = commands.add("sessions", "", "list, create, version and delete sessions")
    actions = _Commands(
        group.add_subparsers(dest="action", metavar="ACTION", required=True), shared
    )

    def add(
        action: str,
        summary: str,
        *,
        session: str = "session that is meant",
        module: str = "sessions",
    ) -> argparse.ArgumentParser:
        parser = actions.add(action, f"{module}:run_{action.replace('-', '_')}", summary)
        if session:
            parser.add_argument("session", metavar="SESSION", help=session)
        _add_json(parser)
        return parser

    add("list", "list the sessions of the user", session="")
    create = add("create", "make an empty session", session="")
    create.add_argument(
        "session", nargs="?", default="", metavar="SESSION", help="default: a random name"
    )
    create.add_argument("--display-name", default="", metavar="TEXT", help="a name for people")
    create.add_argument(
        "--policy", default="", metavar="NAME", help="learning policy (`hope info` lists them)"
    )
    add("show", "show everything about a session")
    delete = add("delete", "erase a session: memory, log, every version")
    delete.add_argument("--yes", action="store_true", help="do not ask")
    fork = add("fork", "copy a session, which then goes its own way")
    fork.add_argument(
        "new_session", nargs="?", default="", metavar="NEW_SESSION", help="default: a random name"
    )
    fork.add_argument(
        "--version", type=_uint64, metavar="N", help="version to copy (default: the present one)"
    )
    rollback = add("rollback", "return to an earlier version")
    rollback.add_argument(
        "version", nargs="?", type=_uint64, metavar="VERSION", help="default: the parent"
    )
    snapshot = add("snapshot", "name the present version, so that it is kept")
    snapshot.add_argument(
        "snapshot", nargs="?", default="", metavar="NAME", help="default: a random name"
    )
    add("snapshots", "list the versions that have names")
    delete_snapshot = add("delete-snapshot", "take a version's name away")
    delete_snapshot.add_argument("snapshot", metavar="NAME", help="as `snapshots` lists it")
    rename = add("rename", "change the display name")
    rename.add_argument("display_name", metavar="TEXT", help="the new one")
    reset = add("reset", "return levels to the base model")
    reset.add_argument(
        "levels", nargs="*", type=_uint32, metavar="LEVEL", help="0 is the fastest (default: all)"
    )
    forget = add("forget", "learn everything again without one document", module="jobs")
    forget.add_argument("document", metavar="DOCUMENT", help="as `show` lists it")
    migrate = add(
        "migrate", "learn everything again under a policy as the server knows it", module="jobs"
    )
    migrate.add_argument("--policy", default="", metavar="NAME", help="default: the session's own")
    add("cancel-job", "end a forget or migrate; the session stays as it was", module="jobs")
    export = add("export", "write a session to a file, for another server", module="transfer")
    export.add_argument("file", type=Path, metavar="FILE", help="must not exist yet")
    import_ = add(
        "import",
        "make a session out of an exported file",
        session="its name here",
        module="transfer",
    )
    import_.add_argument("file", type=Path, metavar="FILE", help="what `export` wrote")
    diff = add("diff", "show how much of each level changed between two kept versions")
    diff.add_argument("before", type=_uint64, metavar="FROM", help="version")
    diff.add_argument("after", type=_uint64, metavar="TO", help="version")
    add("consolidate", "learn now what waits for a boundary")
    end = add("end-conversation", "close a conversation, which is when it is learnt")
    end.add_argument(
        "conversation", nargs="?", default="", metavar="CONVERSATION", help="default: default"
    )
    end.add_argument("--no-wait", action="store_true", help="do not wait for the learning")
    delete_user = add("delete-user", "erase every session of the user (--user)", session="")
    delete_user.add_argument("--yes", action="store_true", help="do not ask")


def _add_turn_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--conversation",
        default="",
        metavar="NAME",
        help="window over the session; a new name starts empty (default: default)",
    )
    parser.add_argument("--system", default="", metavar="TEXT", help="instructions that come first")
    parser.add_argument("--no-learn", action="store_true", help="learn nothing from what is said")
    parser.add_argument("--ephemeral", action="store_true", help="keep nothing at all")
    for option, kind, summary in _SAMPLING:
        parser.add_argument(option, type=kind, metavar="N", help=summary)
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="ends the reply; repeatable"
    )


def _add_json(parser: argparse.ArgumentParser, summary: str = "print one JSON document") -> None:
    parser.add_argument("--json", action="store_true", help=summary)


def _positive_seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < 1e9:  # gRPC takes more than it can count for nothing
        raise argparse.ArgumentTypeError("must be above 0 and below 1e9")
    return seconds
