"""The command line: every command, option and help text, and nothing that acts on them."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from hope_client.cli.commands import Commands, Parser, add_json, positive_seconds, uint32
from hope_client.cli.memory_commands import add_memory
from hope_client.cli.session_commands import add_sessions
from hope_client.cli.turn_commands import add_turns


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = Parser(
        prog="hope",
        description="Client of a hope server, whose sessions keep learning while they are served.",
        epilog="A session is named by its last part: `diary` means users/USER/sessions/diary.",
        allow_abbrev=False,
    )
    add_global_options(parser, top=True)
    # Global options are understood after a command as well, but there they must
    # not overwrite with their defaults what came before it.
    shared = Parser(add_help=False)
    add_global_options(shared, top=False)
    commands = Commands(
        parser.add_subparsers(dest="command", metavar="COMMAND", required=True), shared
    )
    commands.add_bare("serve", "run a server (see `hope serve --help`)")
    add_turns(commands)
    add_sessions(commands, shared)
    add_memory(commands, shared)
    drift = commands.add(
        "drift", "drift:drift", "show how learning changed a session, version by version"
    )
    drift.add_argument("session", metavar="SESSION", help="session to show")
    add_json(drift)
    info = commands.add("info", "info:info", "show what the server runs")
    add_json(info)
    health = commands.add(
        "health", "info:health", "exit with 0 if the server is serving, else with 1"
    )
    add_json(health)
    _add_bench(commands)
    commands.add_bare("evaluate", "run the evaluation tasks (see `hope evaluate --help`)")
    commands.add_bare("train", "train a native model (see `hope train --help`)")
    _add_completion(commands)
    return parser


def _add_bench(commands: Commands) -> None:
    bench = commands.add(
        "bench",
        "bench:bench",
        "load a server with replies and show how fast they come",
    )
    bench.add_argument(
        "--sessions", type=uint32, default=4, metavar="N", help="sessions that ask (default 4)"
    )
    bench.add_argument(
        "--seconds", type=positive_seconds, default=30.0, metavar="S", help="duration (default 30)"
    )
    bench.add_argument(
        "--rate",
        type=positive_seconds,
        default=None,
        metavar="TURNS",
        help="turns per second that arrive at random times (default: every session asks again "
        "as soon as its reply has ended)",
    )
    bench.add_argument(
        "--max-tokens", type=uint32, default=64, metavar="N", help="tokens of a reply (default 64)"
    )
    bench.add_argument(
        "--seed", type=uint32, default=0, help="random seed of arrivals and of sampling"
    )
    add_json(bench)


def add_global_options(parser: argparse.ArgumentParser, *, top: bool) -> None:
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
        type=positive_seconds,
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


def _add_completion(commands: Commands) -> None:
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
