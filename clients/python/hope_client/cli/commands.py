"""Parsers of commands and of their arguments, with nothing about any one command.

A command is the name of a function, `module:function` within this package, which
`app.py` imports and calls.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with a command line, and where help is."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see `{self.prog} --help`\n")


class Commands:
    """Subcommands that share the global options."""

    def __init__(
        self,
        subparsers: argparse._SubParsersAction[Parser],
        shared: Parser,
    ) -> None:
        self._subparsers = subparsers
        self._shared = shared

    def add(self, name: str, run: str, summary: str) -> Parser:
        """A command that calls `run`, `module:function`."""
        parser = self._subparsers.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            parents=[self._shared],
            allow_abbrev=False,
        )
        parser.set_defaults(run=run)
        return parser

    def add_bare(self, name: str, summary: str) -> Parser:
        """A command that another program handles, help included."""
        return self._subparsers.add_parser(name, help=summary, add_help=False)


def add_json(parser: argparse.ArgumentParser, summary: str = "print one JSON document") -> None:
    """The option --json."""
    parser.add_argument("--json", action="store_true", help=summary)


def _whole_number(bits: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        number = int(text)
        if not 0 <= number < 1 << bits:
            raise argparse.ArgumentTypeError(f"must be 0 or more, and below 2^{bits}")
        return number

    read.__name__ = "whole number"  # argparse puts it into its messages
    return read


# Types of arguments.
uint32, uint64 = _whole_number(32), _whole_number(64)


def positive_seconds(text: str) -> float:
    """Type of an argument that is a time in seconds."""
    seconds = float(text)
    if not 0 < seconds < 1e9:  # gRPC takes more than it can count for nothing
        raise argparse.ArgumentTypeError("must be above 0 and below 1e9")
    return seconds
