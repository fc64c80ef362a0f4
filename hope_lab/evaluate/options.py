"""Options that tasks share, and how they are checked."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from hope_lab.evaluate.cache import ResultCache
from hope_lab.evaluate.contenders import ARMS, BASELINES
from hope_runtime.checkpoints import cache_root
from hope_runtime.errors import InvalidRequestError
from hope_runtime.session.policy import DEFAULT_POLICY, POLICIES, LearningPolicy, ReplayConfig


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """What runs, how often, and how the result is shown."""
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0], metavar="N", help="(default 0)"
    )
    parser.add_argument(
        "--policy",
        choices=sorted(POLICIES),
        nargs="+",
        default=[DEFAULT_POLICY.name],
        help=f"how the memory learns; one memory for each (default {DEFAULT_POLICY.name})",
    )
    parser.add_argument(
        "--replay",
        nargs="+",
        default=[],
        metavar="KEY=NUMBER",
        help="constants of the recipe replay, such as plain_price=2: what learning may cost",
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
    add_fast_memory_option(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--show", action="store_true", help="also list each question and reply")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the result")
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="where results are kept, so that each is computed once (default: evaluations in the "
        "model cache)",
    )
    parser.add_argument("--no-cache", action="store_true", help="compute all, and keep nothing")


def add_fast_memory_option(parser: argparse.ArgumentParser) -> None:
    """Which trained fast memory stands beside the model."""
    parser.add_argument(
        "--fast-memory",
        "--branch",  # its older name
        dest="fast_memory",
        type=Path,
        metavar="FILE",
        help="of `hope train fast-memory` (default: the package's)",
    )


def add_arm_options(parser: argparse.ArgumentParser) -> None:
    """Who answers."""
    arms = parser.add_argument_group("who answers")
    arms.add_argument(
        "--arms", nargs="+", choices=ARMS, default=list(ARMS), help="(default: all of them)"
    )
    arms.add_argument(
        "--passages", type=count(1), default=4, help="that retrieval puts in the prompt (default 4)"
    )
    arms.add_argument(
        "--prompt-tokens",
        type=count(1),
        metavar="N",
        help="what prompt and reply may take at most (default: the positions the model knows)",
    )


def policies_of(args: argparse.Namespace) -> list[LearningPolicy]:
    """The chosen policies with the constants that were given. Raises InvalidRequestError."""
    chosen = [POLICIES[name] for name in dict.fromkeys(args.policy)]
    constants: dict[str, Any] = dict(map(_constant, args.replay))
    if constants and not any(policy.recipe == "replay" for policy in chosen):
        raise InvalidRequestError("--replay changes the recipe replay only.", field="replay")
    try:
        return [
            replace(policy, replay=replace(policy.replay, **constants))
            if policy.recipe == "replay"
            else policy
            for policy in chosen
        ]
    except ValueError as error:
        raise InvalidRequestError(f"--replay: {error}.", field="replay") from error


def groups_of(
    arms: Sequence[str], policies: Sequence[LearningPolicy]
) -> list[tuple[tuple[str, ...], LearningPolicy | None]]:
    """The arms that are computed together: each baseline alone, and those of one memory."""
    groups: list[tuple[tuple[str, ...], LearningPolicy | None]] = [
        ((arm,), None) for arm in BASELINES if arm in arms
    ]
    remembering = tuple(arm for arm in ARMS if arm in arms and arm not in BASELINES)
    return groups + [(remembering, policy) for policy in policies if remembering]


def cache_of(args: argparse.Namespace) -> ResultCache:
    """Where results are kept. Raises CacheError."""
    if args.no_cache:
        return ResultCache(None)
    return ResultCache(args.cache or cache_root() / "evaluations")


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


def _constant(text: str) -> tuple[str, float]:
    """KEY=NUMBER as a field of ReplayConfig and its value."""
    name, _, number = text.partition("=")
    defaults = {item.name: getattr(ReplayConfig(), item.name) for item in fields(ReplayConfig)}
    numeric = {
        key: type(value) for key, value in defaults.items() if isinstance(value, int | float)
    }
    if name not in numeric:
        raise InvalidRequestError(
            f"--replay knows no constant {name!r}; there are {', '.join(sorted(numeric))}.",
            field="replay",
        )
    try:
        value = numeric[name](number)
    except ValueError:
        raise InvalidRequestError(
            f"--replay: {number!r} is no value for {name}.", field="replay"
        ) from None
    if not 0 <= value < float("inf"):
        raise InvalidRequestError(f"--replay: {name} cannot be {number}.", field="replay")
    return name, value
