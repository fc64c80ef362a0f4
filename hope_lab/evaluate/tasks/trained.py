"""`hope evaluate formal` and `mad`: small models trained here, beside the paper's figures.

Each named model is trained from each seed on each task, and tested. The figures of the paper
(Nested Learning, Tables 5 and 4) are of models of another size; they stand beside ours and nothing
is computed from them. Models of one table have the same width, depth and MLP.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hope_lab.evaluate.options import count
from hope_lab.evaluate.report.progress import progress_bar
from hope_lab.train import TrainConfig, measure, train
from hope_lab.train import tasks as sources
from hope_lab.train.models import small_model
from hope_runtime.errors import InvalidRequestError
from hope_runtime.models.hope.config import PRESETS

# Of a task and a model: percent by the name of the test.
Figures = Mapping[tuple[str, str], Mapping[str, float]]


def _table_5() -> Figures:
    full, none = {"bin0": 100.0, "bin1": 100.0}, {"bin0": 0.0, "bin1": 0.0}
    figures = {("parity", "transformer"): {"bin0": 46.4, "bin1": 0.0}}
    figures[("parity", "linear_attention")] = {"bin0": 78.1, "bin1": 0.0}
    for name in sources.LANGUAGES:
        figures[(name, "hope")] = full
        if name != "parity":
            for model in ("transformer", "linear_attention"):
                figures[(name, model)] = none if name in ("aa", "abab") else full
    return figures


def _table_4() -> Figures:
    rows = {
        "transformer": (49.4, 100.0, 47.9, 96.2, 83.7),
        "titans": (49.8, 100.0, 50.0, 99.4, 83.4),
        "hope": (51.2, 100.0, 52.1, 99.7, 85.2),
    }
    names = (
        "compression",
        "in_context_recall",
        "fuzzy_recall",
        "selective_copying",
        "memorization",
    )
    return {
        (task, model): {"test": figure}
        for model, row in rows.items()
        for task, figure in zip(names, row, strict=True)
    }


@dataclass(frozen=True, slots=True)
class TrainedTable:
    """One table of the paper: its tasks, its figures, and how many layers and steps we take."""

    NAME: str
    SUMMARY: str
    tasks: tuple[str, ...]
    figures: Figures
    layers: int
    steps: int

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """The options of the subcommand."""
        parser.add_argument("--tasks", nargs="+", choices=self.tasks, default=list(self.tasks))
        parser.add_argument("--models", nargs="+", choices=PRESETS, default=["hope", "transformer"])
        parser.add_argument("--seeds", type=count(0), nargs="+", default=[0], metavar="N")
        parser.add_argument("--steps", type=count(1), default=self.steps, help="training steps")
        parser.add_argument("--rows", type=count(1), default=64, help="strings per step")
        parser.add_argument("--width", type=count(8), default=64, help="model width (default 64)")
        parser.add_argument("--threads", type=count(1), default=1, help="random seeds (default 1)")
        parser.add_argument("--json", action="store_true", help="print one JSON list")

    def run(self, args: argparse.Namespace) -> int:
        """Trains, tests and prints. Returns the exit code."""
        torch.set_num_threads(args.threads)
        found: list[dict[str, Any]] = []
        runs = [(t, m, s) for t in args.tasks for m in args.models for s in args.seeds]
        with progress_bar() as progress:
            for task, model, seed in runs:
                progress.start(f"{task}, {model}, seed {seed}", args.steps)
                found.append(self._one(args, task, model, seed, progress.advance))
        if args.json:
            print(json.dumps(found, indent=1))
        else:
            _print(found)
        return 0

    def _one(
        self, args: argparse.Namespace, name: str, model: str, seed: int, advance: Any
    ) -> dict[str, Any]:
        task = sources.make_task(name)
        how = TrainConfig(steps=args.steps, batch_rows=args.rows, seed=seed)
        try:
            config = small_model(model, task.vocab_size, d_model=args.width, n_layers=self.layers)
        except ValueError as error:
            raise InvalidRequestError(str(error), field="width") from error
        started = time.process_time()
        trained = train(config, task, how, report=lambda step: advance(1))
        tests = measure(trained, task, how)
        return {
            "task": name,
            "model": model,
            "seed": seed,
            "parameters": sum(tensor.numel() for _, tensor in trained.weights.named()),
            "steps": args.steps,
            "cpu_seconds": round(time.process_time() - started, 1),
            "accuracy": {test: result["accuracy"] for test, result in tests.items()},
            "loss": {test: result["loss"] for test, result in tests.items()},
            # Percent in print, shares here; null where the paper has no such model.
            "paper": {test: figure / 100 for test, figure in self.figures[(name, model)].items()}
            if (name, model) in self.figures
            else None,
        }


def _print(found: Sequence[Mapping[str, Any]]) -> None:
    for result in found:
        paper = result["paper"] or {}
        for test, accuracy in result["accuracy"].items():
            beside = f"{100 * paper[test]:5.1f}" if test in paper else "    -"
            print(
                f"{result['task']:18} {result['model']:16} seed {result['seed']}  {test:5} "
                f"{100 * accuracy:5.1f} %   paper {beside}   {result['cpu_seconds']:6.1f} s"
            )


FORMAL = TrainedTable(
    "formal",
    "formal languages, tested on longer strings than in training",
    tuple(sources.LANGUAGES),
    _table_5(),
    layers=1,
    steps=250,
)
MAD = TrainedTable(
    "mad",
    "recall, copying, memorisation and compression on small models",
    tuple(sources.MAD),
    _table_4(),
    layers=2,
    steps=400,
)
