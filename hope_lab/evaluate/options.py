"""Options that tasks share, and how they are checked."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from hope_lab.evaluate.cache import ResultCache
from hope_lab.evaluate.contenders import ARMS, BASELINES
from hope_runtime.checkpoints import cache_root
from hope_runtime.errors import InvalidRequestError
from hope_runtime.session.log import MAX_BUDGET
from hope_runtime.session.policy import DEFAULT_POLICY, POLICIES, RECIPE_SETTINGS, LearningPolicy


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Options for seeds, repetitions and output."""
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0], metavar="N", help="random seeds (default 0)"
    )
    parser.add_argument(
        "--policy",
        choices=sorted(POLICIES),
        nargs="+",
        default=[DEFAULT_POLICY.name],
        help=f"learning policies, with one memory for each (default {DEFAULT_POLICY.name})",
    )
    parser.add_argument(
        "--replay",
        nargs="+",
        default=[],
        metavar="KEY=NUMBER",
        help="constants of the policies' recipes, such as steps=8: what learning may cost",
    )
    parser.add_argument(
        "--budget",
        type=budget,
        metavar="PASSES",
        help="tokens run forward and backward for each token of a document, at most (default: the "
        "policy's)",
    )
    add_model_options(parser)
    parser.add_argument(
        "--threads",
        type=count(1),
        default=len(os.sched_getaffinity(0)),
        help="compute threads (default: all cores)",
    )
    add_fast_memory_option(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--show", action="store_true", help="also list each question and reply")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="file to draw the result into"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="directory of cached results (default: evaluations in the model cache)",
    )
    parser.add_argument(
        "--no-cache", action="store_true", help="recompute everything and store nothing"
    )


def add_fast_memory_option(parser: argparse.ArgumentParser) -> None:
    """Option that names the trained fast memory."""
    parser.add_argument(
        "--fast-memory",
        "--branch",  # its older name
        dest="fast_memory",
        type=Path,
        metavar="FILE",
        help="of `hope train fast-memory` (default: the package's)",
    )


def add_arm_options(parser: argparse.ArgumentParser) -> None:
    """Options for contenders."""
    arms = parser.add_argument_group("contenders")
    arms.add_argument(
        "--arms",
        nargs="+",
        choices=ARMS,
        default=list(ARMS),
        help="contenders to run (default: all)",
    )
    arms.add_argument(
        "--passages",
        type=count(1),
        default=4,
        help="passages that retrieval adds to the prompt (default 4)",
    )
    arms.add_argument(
        "--prompt-tokens",
        type=count(1),
        metavar="N",
        help="maximum tokens of prompt and reply (default: the positions of the model)",
    )


def policies_of(args: argparse.Namespace) -> list[LearningPolicy]:
    """The chosen policies with the constants that were given. Raises InvalidRequestError."""
    chosen = [POLICIES[name] for name in dict.fromkeys(args.policy)]
    if not args.replay:
        return chosen
    known = {
        item.name: getattr(policy.settings, item.name)
        for policy in chosen
        if policy.settings is not None
        for item in fields(policy.settings)
    }
    if not known:
        raise InvalidRequestError(
            f"--replay changes constants of recipes, but that of '{chosen[0].name}' has none",
            field="replay",
        )
    constants: dict[str, Any] = dict(_constant(text, known) for text in args.replay)
    try:
        return [_with_constants(policy, constants) for policy in chosen]
    except ValueError as error:
        raise InvalidRequestError(f"--replay: {error}", field="replay") from error


def _with_constants(policy: LearningPolicy, constants: Mapping[str, Any]) -> LearningPolicy:
    """A policy with those of `constants` that its recipe knows."""
    if policy.settings is None:
        return policy
    own = {item.name for item in fields(policy.settings)}
    changed = {name: value for name, value in constants.items() if name in own}
    settings: Any = replace(policy.settings, **changed)
    return replace(policy, **{RECIPE_SETTINGS[policy.recipe]: settings})


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
    """Directory of stored results. Raises CacheError."""
    if args.no_cache:
        return ResultCache(None)
    return ResultCache(args.cache or cache_root() / "evaluations")


def budget(text: str) -> float:
    """Parser of a document's budget. Raises ArgumentTypeError."""
    try:
        passes = float(text)
    except ValueError:
        passes = -1.0
    if not 0 <= passes <= MAX_BUDGET:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to {MAX_BUDGET:g}")
    return passes


def count(least: int) -> Callable[[str], int]:
    """A parser of whole numbers of at least `least`."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if number < least:
            raise argparse.ArgumentTypeError(f"{number} is too small; the minimum is {least}")
        return number

    return parse


def _constant(text: str, known: Mapping[str, Any]) -> tuple[str, float]:
    """KEY=NUMBER as a field of a recipe's settings and its value."""
    name, _, number = text.partition("=")
    numeric = {key: type(value) for key, value in known.items() if isinstance(value, int | float)}
    if name not in numeric:
        raise InvalidRequestError(
            f"--replay has no setting {name!r}; available settings: {', '.join(sorted(numeric))}",
            field="replay",
        )
    try:
        kind = numeric[name]
        value = bool(int(number)) if kind is bool else kind(number)
    except ValueError:
        raise InvalidRequestError(
            f"--replay: {number!r} is not a valid value of {name}", field="replay"
        ) from None
    if not 0 <= value < float("inf"):
        raise InvalidRequestError(f"--replay: {name} must not be {number}", field="replay")
    return name, value


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Options for the base model and its computation type."""
    parser.add_argument(
        "--model",
        default="default",
        metavar="SOURCE",
        help="default, a .gguf file, a directory, or ORG/NAME on the Hugging Face Hub",
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="computation type (default auto)",
    )
