"""Options that every task has, and how they are checked."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

from hope_runtime.config import DEFAULT_POLICY, POLICIES


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """What runs, how often, and how the result is shown."""
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0], metavar="N", help="(default 0)"
    )
    parser.add_argument(
        "--policy",
        choices=sorted(POLICIES),
        default=DEFAULT_POLICY.name,
        help=f"how the memory learns (default {DEFAULT_POLICY.name})",
    )
    parser.add_argument(
        "--model",
        default="default",
        metavar="SOURCE",
        help="default, a .gguf file, a directory, or org/name of the Hugging Face hub",
    )
    parser.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="(default auto)"
    )
    parser.add_argument(
        "--threads",
        type=count(1),
        default=len(os.sched_getaffinity(0)),
        help="compute threads (default: all cores)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--show", action="store_true", help="also list each question and reply")


def count(least: int) -> Callable[[str], int]:
    """A parser of whole numbers of at least `least`."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if number < least:
            raise argparse.ArgumentTypeError(f"{number} is less than {least}")
        return number

    return parse
