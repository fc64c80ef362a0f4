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
    ("--max-tokens", _uint32, "maximum length of the reply in tokens"),
    ("--temperature", float, "sampling temperature, 0 (always the likeliest token) to 2"),
    ("--top-k", _uint32, "sample from the k likeliest tokens"),
    ("--top-p", float, "sample from the likeliest tokens whose probabilities add up to this"),
    ("--min-p", float, "drop tokens below this fraction of the likeliest token's probability"),
    (
        "--repetition-penalty",
        float,
        "values above 1 discourage tokens that are already in the reply",
    ),
    ("--seed", _uint64, "random seed; the same seed gives the same reply"),
)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = _Parser(
        prog="hope",
        description="Client of a hope server, whose sessions keep learning while they are served.",
        epilog="A session is named by its last part: `diary` means users/USER/sessions/diary.",
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
    commands.add_bare("serve", "run a server (see `hope serve --help`)")
    _add_turns(commands)
    _add_sessions(commands, shared)
    drift = commands.add(
        "drift", "drift:drift", "show how learning changed a session, version by version"
    )
    drift.add_argument("session", metavar="SESSION", help="session to show")
    _add_json(drift)
    info = commands.add("info", "info:info", "show what the server runs")
    _add_json(info)
    health = commands.add(
        "health", "info:health", "exit with 0 if the server is serving, else with 1"
    )
    _add_json(health)
    commands.add_bare("evaluate", "run the evaluation tasks (see `hope evaluate --help`)")
    commands.add_bare("train", "train a native model (see `hope train --help`)")
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
        help="server address (HOPE_SERVER; default 127.0.0.1:50051)",
    )
    group.add_argument(
        "--user",
        default=default(os.environ.get("HOPE_USER") or "local"),
        help="user of short session names without a token (HOPE_USER; default local)",
    )
    group.add_argument(
        "--timeout-seconds",
        type=_positive_seconds,
        metavar="S",
        default=default(None),
        help="timeout of a call (default: none; never applies to an ingest)",
    )

    group.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        default=default(_path_from("HOPE_TOKEN_FILE")),
        help="file with your bearer token (HOPE_TOKEN_FILE; or put the token into HOPE_TOKEN)",
    )
    group.add_argument(
        "--tls",
        action="store_true",
        default=default(bool(os.environ.get("HOPE_TLS"))),
        help="use TLS with the default authorities of gRPC (HOPE_TLS=1)",
    )
    for option, variable, summary in (
        ("--ca-file", "HOPE_CA_FILE", "use TLS and trust these authorities (PEM;"),
        ("--cert-file", "HOPE_CERT_FILE", "client certificate, for servers that require one (PEM;"),
        ("--key-file", "HOPE_KEY_FILE", "private key of the client certificate (PEM;"),
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
    completion = commands.add("completion", "", "print a shell completion script")
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
    chat = commands.add("chat", "chat:chat", "chat in the terminal; type /help there for commands")
    chat.add_argument(
        "session",
        nargs="?",
        default="default",
        metavar="SESSION",
        help="session to chat with, created if missing (default: default)",
    )
    _add_turn_options(chat)

    generate = commands.add("generate", "turns:generate", "run one turn and print the reply")
    generate.add_argument("session", metavar="SESSION", help="session to talk to")
    generate.add_argument("text", metavar="TEXT", help="user message; - reads standard input")
    _add_turn_options(generate)
    generate.add_argument(
        "--request-id", default="", help="id of the request; repeating it returns the stored reply"
    )
    _add_json(generate)

    ingest = commands.add("ingest", "ingest:ingest", "read documents into a session")
    ingest.add_argument(
        "files",
        nargs="+",
        metavar="FILE|DIR|-",
        help="UTF-8 text file, folder, quoted glob pattern, or - for standard input; always give "
        "whole documents: a repeated command resumes where it stopped",
    )
    ingest.add_argument(
        "--session", required=True, metavar="SESSION", help="session that reads the documents"
    )
    ingest.add_argument(
        "--document",
        default="",
        metavar="NAME",
        help="name of the document (default: the file name, or the path within the folder)",
    )
    ingest.add_argument(
        "--include",
        action="append",
        default=[],
        metavar="PATTERN",
        help="files of a folder to read, such as '*.md'; repeatable (default: all)",
    )
    ingest.add_argument(
        "--replace",
        action="store_true",
        help="forget a different document of the same name, then read this one",
    )
    ingest.add_argument("--as-text", action="store_true", help="read HTML with its markup")
    ingest.add_argument(
        "--conversation",
        default="",
        metavar="NAME",
        help="conversation whose window receives the text (default: default)",
    )
    ingest.add_argument("--no-learn", action="store_true", help="read without learning")
    ingest.add_argument(
        "--keep-open", action="store_true", help="leave the document open for more text"
    )
    _add_json(ingest, "print JSON lines, one per event")

    score = commands.add(
        "score", "turns:score", "measure the negative log-likelihood of a text in a session"
    )
    score.add_argument("session", metavar="SESSION", help="session that scores the text")
    score.add_argument("file", metavar="FILE|-", help="UTF-8 file, or - for standard input")
    score.add_argument("--context", default="", metavar="TEXT", help="text before the scored text")
    score.add_argument("--frozen", action="store_true", help="score with the base model instead")
    _add_json(score)


def _add_sessions(commands: _Commands, shared: _Parser) -> None:
    group = commands.add("sessions", "", "manage sessions")
    actions = _Commands(
        group.add_subparsers(dest="action", metavar="ACTION", required=True), shared
    )

    def add(
        action: str,
        summary: str,
        *,
        session: str = "session to act on",
        module: str = "sessions",
    ) -> argparse.ArgumentParser:
        parser = actions.add(action, f"{module}:run_{action.replace('-', '_')}", summary)
        if session:
            parser.add_argument("session", metavar="SESSION", help=session)
        _add_json(parser)
        return parser

    add("list", "list the sessions of the user", session="")
    create = add("create", "create an empty session", session="")
    create.add_argument(
        "session",
        nargs="?",
        default="",
        metavar="SESSION",
        help="name of the session (default: random)",
    )
    create.add_argument("--display-name", default="", metavar="TEXT", help="display name")
    create.add_argument(
        "--policy", default="", metavar="NAME", help="learning policy (see `hope info`)"
    )
    add("show", "show the details of a session")
    delete = add("delete", "delete a session with its memory, log and versions")
    delete.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    fork = add("fork", "copy a session to a new, independent one")
    fork.add_argument(
        "new_session",
        nargs="?",
        default="",
        metavar="NEW_SESSION",
        help="name of the copy (default: random)",
    )
    fork.add_argument(
        "--version", type=_uint64, metavar="N", help="version to copy (default: the current one)"
    )
    rollback = add("rollback", "return to an earlier version")
    rollback.add_argument(
        "version",
        nargs="?",
        type=_uint64,
        metavar="VERSION",
        help="version to return to (default: the parent of the current one)",
    )
    snapshot = add("snapshot", "name the current version so that it is kept")
    snapshot.add_argument(
        "snapshot",
        nargs="?",
        default="",
        metavar="NAME",
        help="name of the snapshot (default: random)",
    )
    add("snapshots", "list the snapshots of a session")
    delete_snapshot = add(
        "delete-snapshot", "delete a snapshot, so that its version may be collected"
    )
    delete_snapshot.add_argument(
        "snapshot", metavar="NAME", help="name of the snapshot, as listed by `snapshots`"
    )
    rename = add("rename", "change the display name")
    rename.add_argument("display_name", metavar="TEXT", help="new display name")
    reset = add("reset", "reset levels to the base model")
    reset.add_argument(
        "levels",
        nargs="*",
        type=_uint32,
        metavar="LEVEL",
        help="levels to reset, 0 being the fastest (default: all)",
    )
    forget = add("forget", "rebuild a session without one document", module="jobs")
    forget.add_argument(
        "document", metavar="DOCUMENT", help="name of the document, as listed by `show`"
    )
    migrate = add(
        "migrate", "rebuild a session under the current definition of a policy", module="jobs"
    )
    migrate.add_argument(
        "--policy",
        default="",
        metavar="NAME",
        help="learning policy (default: that of the session)",
    )
    add(
        "cancel-job",
        "cancel a running forget or migrate, leaving the session unchanged",
        module="jobs",
    )
    export = add("export", "export a session to a file", module="transfer")
    export.add_argument(
        "file", type=Path, metavar="FILE", help="output file, which must not exist yet"
    )
    import_ = add(
        "import",
        "create a session from an exported file",
        session="name of the new session",
        module="transfer",
    )
    import_.add_argument("file", type=Path, metavar="FILE", help="file written by `export`")
    diff = add("diff", "show how much each level changed between two kept versions")
    diff.add_argument("before", type=_uint64, metavar="FROM", help="version")
    diff.add_argument("after", type=_uint64, metavar="TO", help="version")
    add("consolidate", "learn now, without waiting for a boundary")
    end = add("end-conversation", "end a conversation, so that it is learnt")
    end.add_argument(
        "conversation",
        nargs="?",
        default="",
        metavar="CONVERSATION",
        help="name of the conversation (default: default)",
    )
    end.add_argument(
        "--no-wait", action="store_true", help="return without waiting for the learning"
    )
    delete_user = add("delete-user", "delete all sessions of the user (--user)", session="")
    delete_user.add_argument("--yes", action="store_true", help="do not ask for confirmation")


def _add_turn_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--conversation",
        default="",
        metavar="NAME",
        help="conversation; a new name starts with an empty window (default: default)",
    )
    parser.add_argument("--system", default="", metavar="TEXT", help="system prompt")
    parser.add_argument("--no-learn", action="store_true", help="do not learn from this turn")
    parser.add_argument(
        "--ephemeral", action="store_true", help="do not store anything about this turn"
    )
    for option, kind, summary in _SAMPLING:
        parser.add_argument(option, type=kind, metavar="N", help=summary)
    parser.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="stop string; may be given several times",
    )


def _add_json(parser: argparse.ArgumentParser, summary: str = "print one JSON document") -> None:
    parser.add_argument("--json", action="store_true", help=summary)


def _positive_seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < 1e9:  # gRPC takes more than it can count for nothing
        raise argparse.ArgumentTypeError("must be above 0 and below 1e9")
    return seconds
