"""The command line of `hope evaluate`: one subcommand a task.

A task is a module or an object with `NAME`, `SUMMARY`, `add_options(parser)` and
`run(args) -> exit code`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Protocol

from hope_lab.evaluate.tasks import (
    ablation,
    adaptation,
    babilong,
    ctnl,
    forgetting,
    incremental,
    levels,
    memory,
    needle,
    personal,
    poison,
    recall,
)
from hope_lab.evaluate.tasks.trained import FORMAL, MAD
from hope_runtime.errors import HopeError


class Task(Protocol):
    """A task of `hope evaluate`: a module or an object."""

    @property
    def NAME(self) -> str: ...  # noqa: N802

    @property
    def SUMMARY(self) -> str: ...  # noqa: N802

    def add_options(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> int: ...


TASKS: tuple[Task, ...] = (
    recall,
    needle,
    personal,
    babilong,
    adaptation,
    ctnl,
    incremental,
    forgetting,
    memory,
    poison,
    FORMAL,
    MAD,
    ablation,
    levels,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the task that `argv` names; returns the exit code. argparse exits for wrong options."""
    parser = argparse.ArgumentParser(
        prog="hope evaluate",
        description="Measure what a memory learns. Runs in this process, without a server.",
        allow_abbrev=False,
    )
    tasks = parser.add_subparsers(dest="task", metavar="TASK", required=True)
    for task in TASKS:
        options = tasks.add_parser(
            task.NAME,
            help=task.SUMMARY,
            description=f"{task.SUMMARY[0].upper()}{task.SUMMARY[1:]}.",
            allow_abbrev=False,
        )
        task.add_options(options)
        options.set_defaults(run=task.run)
    args = parser.parse_args(argv)
    try:
        code: int = args.run(args)
    except HopeError as error:
        print(f"hope evaluate: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return code
