"""The command line of `hope train fast-memory`: from nothing, or from a stored one, to a file.

Where the base model is read in bfloat16, the fast memory's large products are bfloat16, too; its
weights stay float32. On a GPU a step has eight times the facts and scores the whole vocabulary.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from hope_lab.train.fast_memory import log
from hope_lab.train.fast_memory.config import DEFAULT_STEPS, MemoryTrainConfig
from hope_lab.train.fast_memory.log import MemoryStep
from hope_lab.train.fast_memory.loop import FAST_MEMORY, train_fast_memory
from hope_runtime.checkpoints import load_base_model
from hope_runtime.checkpoints.fast_memory import load_fast_memory
from hope_runtime.errors import InvalidRequestError
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.fast_memory.weights import FastMemory, FastMemoryConfig

DEFAULT_LAYERS = (0, 12, 24)
_SIZES = ("n_heads", "key_width", "value_width", "taps", "input_width", "hidden")
_ON_GPU: dict[str, Any] = {
    "facts_a_step": 512,
    "whole_vocabulary": True,
    "stories_a_round": 1600,
    "first_rounds": 4,
    "most_rounds": 4,
    "round_every": 60,
    "test_every": 500,
}


def run(argv: Sequence[str]) -> int:
    """Trains as `argv` says. argparse exits for wrong options; raises HopeError's children."""
    args = _parser().parse_args(argv)
    torch.set_num_threads(max(args.threads, 1))
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = load_base_model(args.model, dtype=args.dtype, device=device)
    begin = load_fast_memory(args.begin, model) if args.begin else None
    try:
        config, how = _config(args, model, begin), _how(args, model, begin)
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(str(error), field="train") from error
    with _bar(how) as report:
        train_fast_memory(
            model,
            config,
            how,
            args.out,
            begin=begin.weights if begin else None,
            resume=args.resume,
            report=report,
        )
    tested = [step for step in log.read(args.out) if step.held_out is not None]
    for name, value in (tested[-1].held_out or {}).items() if tested else ():
        print(f"{name}: {value:g}")
    file = args.out / FAST_MEMORY
    print(f"the fast memory: {file}; `hope evaluate memory --fast-memory {file}` asks it in full")
    if log.plot(args.out) is None:
        print(
            "no plot was drawn because matplotlib is not installed; run: pip install "
            "'hope-server[train]'"
        )
    return 0


def _config(
    args: argparse.Namespace, model: BaseModel, begin: FastMemory | None
) -> FastMemoryConfig:
    """The shape: that of the fast memory to begin with, or as the options say."""
    if begin is not None:
        if args.layers or args.shape:
            raise ValueError("--begin brings its layers and its shape; leave out --layers, --shape")
        return begin.config
    return FastMemoryConfig(
        d_model=model.config.d_model,
        sources=tuple(sorted(set(args.layers or DEFAULT_LAYERS))),
        target=model.config.n_layers,
        **dict(map(_size, args.shape)),
    )


def _how(args: argparse.Namespace, model: BaseModel, begin: FastMemory | None) -> MemoryTrainConfig:
    steps = args.steps
    if steps is None and args.minutes is None:
        steps = DEFAULT_STEPS
    how = MemoryTrainConfig(
        steps=steps,
        minutes=args.minutes,
        seed=args.seed,
        autocast=model.dtype is torch.bfloat16,
        begin_digest=begin.digest if begin else "",
    )
    if model.device.type == "cuda":
        how = replace(how, **_ON_GPU)
    if args.learning_rate is not None:
        how = replace(how, learning_rate=args.learning_rate)
    return how


def _size(text: str) -> tuple[str, int]:
    """KEY=NUMBER as a field of FastMemoryConfig and its value."""
    name, _, number = text.partition("=")
    if name not in _SIZES:
        raise ValueError(f"--shape knows no size {name!r}; there are {', '.join(_SIZES)}")
    return name, int(number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hope train fast-memory",
        description="Train the fast memory beside a frozen base model.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--steps", type=int, help=f"(default {DEFAULT_STEPS}, or no limit with --minutes)"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        help="length of the run in minutes; the learning rate decays until its end",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="of this run alone")
    parser.add_argument("--resume", action="store_true", help="continue a stopped run")
    parser.add_argument(
        "--begin", type=Path, metavar="FILE", help="stored fast memory to start from"
    )
    parser.add_argument("--learning-rate", type=float, help="(default 0.002)")
    parser.add_argument(
        "--layers", type=int, nargs="+", metavar="N", help="its sources (default 0 12 24)"
    )
    parser.add_argument(
        "--shape",
        nargs="+",
        default=[],
        metavar="KEY=NUMBER",
        help=f"sizes: {', '.join(_SIZES)}",
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed (default 0)")
    parser.add_argument("--threads", type=int, default=1, help="compute threads (default 1)")
    parser.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="(default auto)"
    )
    parser.add_argument("--device", help="cpu or cuda (default: a GPU where there is one)")
    parser.add_argument(
        "--model",
        default="default",
        metavar="SOURCE",
        help="default, a .gguf file, a directory, or ORG/NAME on the Hugging Face Hub",
    )
    return parser


@contextmanager
def _bar(how: MemoryTrainConfig) -> Iterator[Callable[[MemoryStep], None]]:
    """A bar on the standard error with the shares so far; on no terminal, nothing."""
    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        bar = bars.add_task("reading", total=1.0)

        def report(step: MemoryStep) -> None:
            text = f"step {step.step}, {100 * step.values:.0f} % of values"
            bars.update(bar, completed=how.progress(step.step, 60 * step.minutes), description=text)

        yield report
