"""The command line: every command, option and help text, and nothing that acts on them.

A command is the name of a function, `module:function` within this package, which
`app.py` imports and calls.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

_SAMPLING = (
    ("--max-tokens", int, "longest reply, in tokens"),
    ("--temperature", float, "0 takes the likeliest token, up to 2 the more adventurous"),
    ("--top-k", int, "choose among the k likeliest tokens"),
    ("--top-p", float, "choose among the likeliest tokens with this probability together"),
    ("--min-p", float, "drop tokens below this share of the likeliest one"),
    ("--repetition-penalty", float, "above 1 discourages tokens already in the reply"),
    ("--seed", int, "the same seed gives the same reply"),
)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="hope",
        description="Talk to a hope server: sessions whose memory learns while it is served.",
        epilog="A session is named by its last part, `diary` for users/USER/sessions/diary.",
        allow_abbrev=False,
    )
    _add_global_options(parser, top=True)
    # Global options are understood after a command as well, but there they must
    # not overwrite with their defaults what came before it.
    shared = argparse.ArgumentParser(add_help=False)
    _add_global_options(shared, top=False)
    commands = _Commands(
        parser.add_subparsers(dest="command", metavar="COMMAND", required=True), shared
    )
    commands.add_bare("serve", "run a server (its options: `hope serve --help`)")
    _add_turns(commands)
    _add_sessions(commands, shared)
    info = commands.add("info", "info:info", "what the server runs")
    _add_json(info)
    commands.add_bare("evaluate", "run the papers' tasks (its options: `hope evaluate --help`)")
    commands.add_bare("train", "train a native model (its options: `hope train --help`)")
    return parser


class _Commands:
    """Subcommands that share the global options."""

    def __init__(
        self,
        subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
        shared: argparse.ArgumentParser,
    ) -> None:
        self._subparsers = subparsers
        self._shared = shared

    def add(self, name: str, run: str, summary: str) -> argparse.ArgumentParser:
        parser = self._subparsers.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            parents=[self._shared],
            allow_abbrev=False,
        )
        parser.set_defaults(run=run)
        return parser

    def add_bare(self, name: str, summary: str) -> argparse.ArgumentParser:
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


def _add_turns(commands: _Commands) -> None:
    chat = commands.add("chat", "chat:chat", "chat in the terminal; /help there lists commands")
    chat.add_argument("session", nargs="?", default="default", metavar="SESSION")
    _add_turn_options(chat)

    generate = commands.add("generate", "turns:generate", "run one turn and print the reply")
    generate.add_argument("session", metavar="SESSION")
    generate.add_argument("text", metavar="TEXT", help="what is said; - reads standard input")
    _add_turn_options(generate)
    generate.add_argument("--request-id", default="", help="a repeated id gives the stored reply")
    _add_json(generate)

    ingest = commands.add("ingest", "ingest:ingest", "read a document into a session")
    ingest.add_argument(
        "file", metavar="FILE|-", help="UTF-8 text: always the whole document, from its beginning"
    )
    ingest.add_argument("--session", required=True, metavar="SESSION")
    ingest.add_argument("--document", default="", metavar="NAME", help="default: the file's name")
    ingest.add_argument("--conversation", default="", metavar="NAME")
    ingest.add_argument("--no-learn", action="store_true", help="read it without learning from it")
    ingest.add_argument("--keep-open", action="store_true", help="the document is not complete yet")
    _add_json(ingest, "print JSON lines, one an event")

    score = commands.add("score", "turns:score", "measure how surprising a text is to a session")
    score.add_argument("session", metavar="SESSION")
    score.add_argument("file", metavar="FILE|-")
    score.add_argument("--context", default="", metavar="TEXT", help="comes before, not scored")
    score.add_argument("--frozen", action="store_true", help="score with the base model instead")
    _add_json(score)


def _add_sessions(commands: _Commands, shared: argparse.ArgumentParser) -> None:
    group = commands.add("sessions", "", "list, create, version and delete sessions")
    actions = _Commands(
        group.add_subparsers(dest="action", metavar="ACTION", required=True), shared
    )

    def add(action: str, summary: str, *, named: bool = True) -> argparse.ArgumentParser:
        parser = actions.add(action, f"sessions:run_{action.replace('-', '_')}", summary)
        if named:
            parser.add_argument("session", metavar="SESSION")
        _add_json(parser)
        return parser

    add("list", "sessions of the user", named=False)
    create = add("create", "make an empty session", named=False)
    create.add_argument("session", nargs="?", default="", metavar="SESSION")
    create.add_argument("--display-name", default="", metavar="TEXT")
    create.add_argument("--policy", default="", metavar="NAME", help="learning policy")
    add("show", "everything about a session")
    delete = add("delete", "erase a session: memory, log, every version")
    delete.add_argument("--yes", action="store_true", help="do not ask")
    fork = add("fork", "copy a session, which then goes its own way")
    fork.add_argument("new_session", nargs="?", default="", metavar="NEW_SESSION")
    fork.add_argument("--version", type=int, metavar="N", help="default: the present one")
    rollback = add("rollback", "return to an earlier version")
    rollback.add_argument(
        "version", nargs="?", type=int, metavar="VERSION", help="default: the parent"
    )
    snapshot = add("snapshot", "name the present version, so that it is kept")
    snapshot.add_argument("snapshot", nargs="?", default="", metavar="NAME")
    add("snapshots", "names of versions")
    rename = add("rename", "change the display name")
    rename.add_argument("display_name", metavar="TEXT")
    reset = add("reset", "return levels to the base model")
    reset.add_argument(
        "levels", nargs="*", type=int, metavar="LEVEL", help="0 is the fastest (default: all)"
    )
    forget = add("forget", "learn everything again without one document")
    forget.add_argument("document", metavar="DOCUMENT")
    migrate = add("migrate", "learn everything again under a policy as the server knows it")
    migrate.add_argument("--policy", default="", metavar="NAME", help="default: the session's own")
    export = add("export", "write a session to a file, for another server")
    export.add_argument("file", type=Path, metavar="FILE")
    import_ = add("import", "make a session out of an exported file")
    import_.add_argument("file", type=Path, metavar="FILE")
    diff = add("diff", "how much of each level changed between two kept versions")
    diff.add_argument("before", type=int, metavar="FROM")
    diff.add_argument("after", type=int, metavar="TO")
    add("consolidate", "learn now what waits for a boundary")
    end = add("end-conversation", "close a conversation, which is when it is learnt")
    end.add_argument("conversation", nargs="?", default="", metavar="CONVERSATION")
    end.add_argument("--no-wait", action="store_true", help="do not wait for the learning")


def _add_turn_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--conversation", default="", metavar="NAME")
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
    if not seconds > 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return seconds
