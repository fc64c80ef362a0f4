"""The command line of `hope train memory`: from nothing to a branch's checkpoint.

On a GPU a step has eight times the facts and a round eight times the stories, in bfloat16.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hope_lab.train.fast_memory import log
from hope_lab.train.fast_memory.log import MemoryStep
from hope_lab.train.fast_memory.loop import BRANCH, MemoryTrainConfig, train_fast_memory
from hope_runtime.checkpoints import load_base_model
from hope_runtime.errors import InvalidRequestError
from hope_runtime.models.fast_memory.weights import FastMemoryConfig

DEFAULT_LAYERS = (0, 8, 16)
_ON_GPU = {"facts_a_step": 512, "stories_a_round": 256, "autocast": True}


def run(argv: Sequence[str]) -> int:
    """Trains as `argv` says. argparse exits for wrong options; raises HopeError's children."""
    args = _parser().parse_args(argv)
    torch.set_num_threads(max(args.threads, 1))
    device = torch.device(args.device)
    model = load_base_model(args.model, dtype="float32", device=device)
    try:
        config = FastMemoryConfig(
            d_model=model.config.d_model,
            sources=tuple(sorted(set(args.layers))),
            target=model.config.n_layers,
        )
        extra = _ON_GPU if device.type == "cuda" else {}
        how = MemoryTrainConfig(**{"steps": args.steps, "seed": args.seed} | extra)
    except ValueError as error:
        raise InvalidRequestError(str(error), field="layers") from error
    with _bar(args.steps) as report:
        train_fast_memory(
            model,
            config,
            how,
            args.out,
            resume=args.resume,
            minutes=args.minutes,
            report=report,
        )
    tested = [step for step in log.read(args.out) if step.held_out is not None]
    for name, value in (tested[-1].held_out or {}).items() if tested else ():
        print(f"{name}: {value:g}")
    print(f"fast memory: {args.out / BRANCH}; evaluate it with `hope evaluate memory --branch`")
    if log.plot(args.out) is None:
        print(
            "no plot was drawn because matplotlib is not installed; run: pip install "
            "'hope-server[train]'"
        )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hope train memory",
        description="Train the fast memory of a frozen base model.",
        allow_abbrev=False,
    )
    parser.add_argument("--steps", type=int, default=2000, help="training steps (default 2000)")
    parser.add_argument(
        "--minutes", type=float, help="stop after this many minutes; the run can be resumed"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="directory of this run"
    )
    parser.add_argument("--resume", action="store_true", help="continue a stopped run")
    parser.add_argument(
        "--layers",
        type=int,
        nargs="+",
        default=DEFAULT_LAYERS,
        metavar="N",
        help="layers whose input the fast memory reads (default 0 8 16)",
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed (default 0)")
    parser.add_argument("--threads", type=int, default=1, help="compute threads (default 1)")
    parser.add_argument("--device", default="cpu", help="device, cpu or cuda (default cpu)")
    parser.add_argument(
        "--model",
        default="default",
        metavar="SOURCE",
        help="default, a .gguf file, a directory, or ORG/NAME on the Hugging Face Hub",
    )
    return parser


@contextmanager
def _bar(steps: int) -> Iterator[Callable[[MemoryStep], None]]:
    """A bar on the standard error with the shares so far; on no terminal, nothing."""
    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        bar = bars.add_task("reading", total=steps)

        def report(step: MemoryStep) -> None:
            text = f"{100 * step.values:.0f} % of values, {step.facts_read:,} facts read"
            bars.update(bar, completed=step.step, description=text)

        yield report
