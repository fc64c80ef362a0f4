"""`hope evaluate levels`: how many levels, and how slow the slowest (Nested Learning, Figure 7).

One small attention model is trained on bytes with static MLPs. Then the same weights read a long
text of another kind, with the MLPs of some layers placed in levels that learn (level stacking,
section 7.3): one level is the model as it was trained, in-context learning alone; n levels are
n - 1 that learn, fast ones in late layers, periods four times apart up to the lowest frequency.
The rate of each placement is chosen on a stretch that is not tested on. The paper prints curves
and no figures; it finds that more levels are better and that updates every 512 to 2,048 tokens at
the slowest level do best.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hope_lab.evaluate.options import count
from hope_lab.evaluate.report.progress import progress_bar
from hope_lab.evaluate.streams import (
    VOCAB,
    bytes_of,
    other_text,
    stream_nats,
    stretches,
    text_task,
    train_on_text,
    training_text,
)
from hope_lab.train import TrainConfig
from hope_runtime.errors import DivergedStateError
from hope_runtime.models.hope.config import HopeConfig, HopeLevel, preset
from hope_runtime.models.hope.weights import HopeWeights

NAME = "levels"
SUMMARY = "number of levels and period of the slowest one, on another kind of text"

LAYERS = 4
APART = 4
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
ROWS = 4


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the subcommand."""
    parser.add_argument("--seeds", type=count(0), nargs="+", default=[0], metavar="N")
    parser.add_argument("--levels", type=count(1), nargs="+", default=[1, 2, 3, 4], metavar="N")
    parser.add_argument(
        "--lowest",
        type=count(16),
        nargs="+",
        default=[64, 256, 1024],
        metavar="TOKENS",
        help="update periods of the slowest level in tokens (default 64 256 1024)",
    )
    parser.add_argument("--steps", type=count(1), default=600, help="training steps")
    parser.add_argument("--rows", type=count(1), default=32, help="windows per step")
    parser.add_argument("--window", type=count(32), default=128, help="attention window in bytes")
    parser.add_argument("--width", type=count(8), default=64, help="model width (default 64)")
    parser.add_argument("--tokens", type=count(64), default=8192, help="bytes per test text")
    parser.add_argument("--text", type=Path, default=None, help="UTF-8 files to train on")
    parser.add_argument("--threads", type=count(1), default=1, help="random seeds (default 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON list")


def run(args: argparse.Namespace) -> int:
    """Trains, reads and prints. Returns the exit code."""
    torch.set_num_threads(args.threads)
    task = text_task(training_text(args.text), args.window)
    ids_BT = stretches(bytes_of(other_text()), ROWS + 1, args.tokens)
    found: list[dict[str, Any]] = []
    with progress_bar() as progress:
        for seed in args.seeds:
            progress.start(f"training, seed {seed}", args.steps)
            how = TrainConfig(steps=args.steps, batch_rows=args.rows, seed=seed)
            config = model_of(args.width, args.window)
            weights = train_on_text(config, task, how, progress.advance).weights
            placements = [
                (levels, lowest)
                for levels in args.levels
                for lowest in (args.lowest if levels > 1 else [0])
                if levels <= LAYERS and lowest >= (APART ** (levels - 2) if levels > 1 else 0)
            ]
            progress.start(f"reading, seed {seed}", len(placements))
            for levels, lowest in placements:
                found.append(_one(config, weights, levels, lowest, ids_BT, seed))
                progress.advance(1)
    if args.json:
        print(json.dumps(found, indent=1))
    else:
        _print(found)
    return 0


def model_of(width: int, window: int) -> HopeConfig:
    """Attention and static MLPs, with a level of its own for every layer's."""
    return preset(
        "transformer",
        vocab_size=VOCAB,
        d_model=width,
        n_layers=LAYERS,
        n_heads=4,
        window=window,
    )


def placed(config: HopeConfig, levels: int, lowest: int, rate: float) -> HopeConfig:
    """The same weights with the MLPs of the last layers in `levels` - 1 learning levels, the last
    layer in the fastest, and those before them in a static one."""
    units = config.levels[0].d_ff
    learning = tuple(
        HopeLevel(lowest // APART ** (levels - 2 - index), units, rate)
        for index in range(levels - 1)
    )
    static = (HopeLevel(0, units),) if levels <= LAYERS else ()
    of_layer = [min(LAYERS - 1 - layer, levels - 1) for layer in range(LAYERS)]
    return replace(
        config,
        levels=(*learning, *static),
        layer_levels=tuple((level,) for level in of_layer),
    )


def _one(
    config: HopeConfig,
    weights: HopeWeights,
    levels: int,
    lowest: int,
    ids_BT: Tensor,
    seed: int,
) -> dict[str, Any]:
    started = time.process_time()
    rate = 0.0
    if levels > 1:
        rates = {rate: _nats(config, weights, levels, lowest, rate, ids_BT[:1]) for rate in RATES}
        rate = min(rates, key=lambda each: rates[each])
    return {
        "task": NAME,
        "model": f"{levels} levels" if levels > 1 else "1 level",
        "levels": levels,
        # Tokens between updates of the slowest level that learns; 0 where none does.
        "lowest_frequency_tokens": lowest,
        "learning_rate": rate,
        "seed": seed,
        "cpu_seconds": round(time.process_time() - started, 1),
        # Nats a byte of the tested stretches.
        "loss": _nats(config, weights, levels, lowest, rate, ids_BT[1:]),
        "paper": None,
    }


def _nats(
    config: HopeConfig,
    weights: HopeWeights,
    levels: int,
    lowest: int,
    rate: float,
    ids_BT: Tensor,
) -> float:
    """Mean nats a token; infinite where the rate is too high for a memory to stay bounded."""
    try:
        found = stream_nats(placed(config, levels, lowest, rate), weights, ids_BT)
    except DivergedStateError:
        return float("inf")
    return float(found.mean())


def _print(found: Sequence[Mapping[str, Any]]) -> None:
    for result in found:
        print(
            f"{result['model']:9} lowest every {result['lowest_frequency_tokens']:5} tokens   "
            f"rate {result['learning_rate']:.0e}   seed {result['seed']}   "
            f"{result['loss']:.4f} nats a byte   {result['cpu_seconds']:6.1f} s"
        )
