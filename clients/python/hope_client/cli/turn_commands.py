"""Options and help texts of the commands that run turns or read texts."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from hope_client.cli.commands import Commands, add_json, uint32, uint64

_SAMPLING: tuple[tuple[str, Callable[[str], int | float], str], ...] = (
    ("--max-tokens", uint32, "maximum length of the reply in tokens"),
    ("--temperature", float, "sampling temperature, 0 (always the likeliest token) to 2"),
    ("--top-k", uint32, "sample from the k likeliest tokens"),
    ("--top-p", float, "sample from the likeliest tokens whose probabilities add up to this"),
    ("--min-p", float, "drop tokens below this fraction of the likeliest token's probability"),
    (
        "--repetition-penalty",
        float,
        "values above 1 discourage tokens that are already in the reply",
    ),
    ("--seed", uint64, "random seed; the same seed gives the same reply"),
)


def add_turns(commands: Commands) -> None:
    """Adds `chat`, `generate`, `ingest` and `score`."""
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
    _add_at_version(generate, "answer with the memory as it was at this version, and keep nothing")
    add_json(generate)

    ingest = commands.add("ingest", "ingest:ingest", "read documents into a session")
    ingest.add_argument(
        "files",
        nargs="*",
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
    ingest.add_argument(
        "--budget",
        type=float,
        metavar="PASSES",
        help="tokens that learning may run forward and backward for each token, at most; 0 reads "
        "only (default: the policy's)",
    )
    ingest.add_argument(
        "--detach",
        action="store_true",
        help="leave the reading to the server, which continues after this command ends",
    )
    ingest.add_argument(
        "--status", action="store_true", help="show what the server reads in the background"
    )
    ingest.add_argument(
        "--cancel",
        action="store_true",
        help="end reading in the background; text that was read is kept, and documents sent again "
        "with --detach continue from there",
    )
    add_json(ingest, "print JSON lines, one per event")

    score = commands.add(
        "score", "turns:score", "measure the negative log-likelihood of a text in a session"
    )
    score.add_argument("session", metavar="SESSION", help="session that scores the text")
    score.add_argument("file", metavar="FILE|-", help="UTF-8 file, or - for standard input")
    score.add_argument("--context", default="", metavar="TEXT", help="text before the scored text")
    score.add_argument("--frozen", action="store_true", help="score with the base model instead")
    _add_at_version(score, "score with the memory as it was at this version")
    add_json(score)


def _add_at_version(parser: argparse.ArgumentParser, summary: str) -> None:
    parser.add_argument(
        "--at-version", type=uint64, metavar="N", help=f"{summary}; 0 is the base model"
    )


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
