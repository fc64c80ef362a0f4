"""The command line of `hope train`: a preset, a task and a directory; everything else by --set.

`hope train fast-memory` is another loop with options of its own (fast_memory/cli.py).

Keys of --set are fields of TrainConfig, `model.X` (sizes and fields of the model), `fast.X` (its
fast memory), `task.X` (the task's options) and `optimizer.X` (hyperparameters of the update rule).
Values are JSON, or text where they are none.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hope_lab.train import log
from hope_lab.train.config import TrainConfig
from hope_lab.train.log import Step
from hope_lab.train.loop import measure, train
from hope_lab.train.models import small_model
from hope_lab.train.tasks import TASKS, make_task
from hope_runtime.errors import HopeError, InvalidRequestError
from hope_runtime.models.hope.config import PRESETS

_SECTIONS = ("train", "model", "fast", "task", "optimizer")


def main(argv: Sequence[str] | None = None) -> int:
    """Trains as `argv` says; returns the exit code. argparse exits for wrong options."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words[:1] in (["fast-memory"], ["memory"]):  # the latter is its older name
            # Here, because a native model's run needs none of it.
            from hope_lab.train.fast_memory import cli as fast_memory

            return fast_memory.run(words[1:])
        return _run(_parser().parse_args(words))
    except HopeError as error:
        print(f"hope train: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"hope train: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hope train",
        description="Train a native model from scratch. Under torchrun the processes share a step. "
        "`hope train fast-memory` trains the fast memory beside a pretrained model.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--task", required=True, choices=TASKS, metavar="TASK", help=", ".join(TASKS)
    )
    parser.add_argument(
        "--model", default="hope", choices=PRESETS, help="architecture (default hope)"
    )
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="directory of this run"
    )
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default 0)")
    parser.add_argument("--threads", type=int, default=1, help="compute threads (default 1)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=(
            "a setting, such as learning_rate=1e-3, model.d_model=128, fast.chunk_mem=4 or "
            "task.window=64"
        ),
    )
    return parser


def _run(args: argparse.Namespace) -> int:
    torch.set_num_threads(max(args.threads, 1))
    chosen = settings_of(args.set)
    try:
        task = make_task(args.task, **chosen["task"])
        model = {"vocab_size": task.vocab_size, "fast": chosen["fast"] or None} | chosen["model"]
        config = small_model(args.model, **model)
        given = {"steps": args.steps, "seed": args.seed, "hyperparameters": chosen["optimizer"]}
        how = TrainConfig(**(given | chosen["train"]))
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(str(error), field="set") from error
    plain = {"task": args.task, "options": chosen["task"]}
    with _bar(how.steps) as report:
        trained = train(
            config,
            task,
            how,
            out=args.out,
            resume=args.resume,
            settings=plain,
            report=report,
        )
    found = measure(trained, task, how)
    for name, result in found.items():
        print(f"{name}: accuracy {result['accuracy']:.4f}, loss {result['loss']:.6f}")
    if log.plot(args.out) is None:
        print(
            "no plot was drawn because matplotlib is not installed; run: pip install "
            "'hope-server[train]'"
        )
    return 0


def settings_of(given: Sequence[str]) -> dict[str, dict[str, Any]]:
    """KEY=VALUE, sorted by what it sets. Raises InvalidRequestError."""
    chosen: dict[str, dict[str, Any]] = {section: {} for section in _SECTIONS}
    for text in given:
        key, equals, value = text.partition("=")
        section, dot, name = key.rpartition(".")
        section = section if dot else "train"
        if not equals or not name or section not in _SECTIONS:
            raise InvalidRequestError(
                f"{text!r} is not of the form KEY=VALUE with a key of train, model, fast, task "
                "or optimizer",
                field="set",
            )
        try:
            chosen[section][name] = json.loads(value)
        except ValueError:
            chosen[section][name] = value
    return chosen


@contextmanager
def _bar(steps: int) -> Iterator[Any]:
    """A bar on the standard error with loss and tokens a second; on no terminal, nothing."""
    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        bar = bars.add_task("training", total=steps)

        def report(step: Step) -> None:
            text = f"loss {step.loss:.4f}, {step.tokens_per_second:,.0f} tokens/s"
            bars.update(bar, completed=step.step, description=text)

        yield report
