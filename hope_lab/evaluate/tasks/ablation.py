"""`hope evaluate ablation`: HOPE without each of its parts in turn (Nested Learning, Table 6).

Models of one width and depth are trained on the same bytes and read a held-out stream, their
levels learning on the way. The paper's figures are perplexities of a far larger model over words;
they stand beside ours for the order, and nothing is computed from them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hope_lab.evaluate.options import count
from hope_lab.evaluate.report.progress import progress_bar
from hope_lab.evaluate.streams import (
    VOCAB,
    stream_nats,
    stretches,
    text_task,
    train_on_text,
    training_text,
)
from hope_lab.train import TrainConfig
from hope_runtime.layers.config import Projection
from hope_runtime.models.hope.config import HopeConfig, HopeLevel, preset

NAME = "ablation"
SUMMARY = "HOPE with each of its parts removed, on text"

ALL: tuple[Projection, ...] = ("k", "v", "q", "eta", "alpha")
PERIODS = (64, 512)
LEARNING_RATE = 0.01
# Of the variant: what differs in its fast memory, and the paper's perplexity.
VARIANTS: dict[str, tuple[dict[str, Any], float]] = {
    "hope": ({}, 12.24),
    "gd_for_dgd": ({"rule": "gd"}, 13.41),
    "no_momentum": ({"momentum": 0.0}, 13.58),
    "no_weight_decay": ({"alpha_gate": False, "adaptive": ALL[:4]}, 13.71),
    "no_cms": ({}, 13.04),
    "static_k": ({"adaptive": ALL[1:]}, 13.77),
    "static_v": ({"adaptive": (ALL[0], *ALL[2:])}, 13.90),
    "static_q": ({"adaptive": (*ALL[:2], *ALL[3:])}, 12.19),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the subcommand."""
    parser.add_argument("--models", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", type=count(0), nargs="+", default=[0], metavar="N")
    parser.add_argument("--steps", type=count(1), default=300, help="training steps")
    parser.add_argument("--rows", type=count(1), default=16, help="windows per step")
    parser.add_argument("--window", type=count(32), default=256, help="bytes per window")
    parser.add_argument("--width", type=count(8), default=64, help="model width (default 64)")
    parser.add_argument("--text", type=Path, default=None, help="UTF-8 files to train and test on")
    parser.add_argument("--threads", type=count(1), default=1, help="random seeds (default 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON list")


def run(args: argparse.Namespace) -> int:
    """Trains, tests and prints. Returns the exit code."""
    torch.set_num_threads(args.threads)
    text = training_text(args.text)
    found = []
    with progress_bar() as progress:
        for variant in args.models:
            for seed in args.seeds:
                progress.start(f"{variant}, seed {seed}", args.steps)
                found.append(_one(args, text, variant, seed, progress.advance))
    if args.json:
        print(json.dumps(found, indent=1))
    else:
        _print(found)
    return 0


def model_of(variant: str, width: int) -> HopeConfig:
    """The model of a variant; all have as many parameters in their MLPs."""
    fast, _ = VARIANTS[variant]
    base: dict[str, Any] = {"adaptive": ALL, "momentum": 0.5}
    config = preset(
        "hope",
        vocab_size=VOCAB,
        d_model=width,
        n_layers=2,
        n_heads=4,
        periods=PERIODS,
        learning_rate=LEARNING_RATE,
        fast=base | fast,
    )
    if variant == "no_cms":
        units = sum(level.d_ff for level in config.levels)
        return replace(config, levels=(HopeLevel(0, units),))
    return config


def _one(
    args: argparse.Namespace, text: str, variant: str, seed: int, advance: Callable[[int], None]
) -> dict[str, Any]:
    task = text_task(text, args.window)
    how = TrainConfig(steps=args.steps, batch_rows=args.rows, seed=seed)
    started = time.process_time()
    trained = train_on_text(model_of(variant, args.width), task, how, advance)
    ids_BT = stretches(task.tested, 8, 8 * args.window)
    nats = stream_nats(trained.config, trained.weights, ids_BT)
    return {
        "task": NAME,
        "model": variant,
        "seed": seed,
        "parameters": sum(tensor.numel() for _, tensor in trained.weights.named()),
        "steps": args.steps,
        "cpu_seconds": round(time.process_time() - started, 1),
        # Nats a byte of held-out text.
        "loss": float(nats.mean()),
        # A perplexity over words of a model of another size.
        "paper": VARIANTS[variant][1],
    }


def _print(found: Sequence[Mapping[str, Any]]) -> None:
    for result in found:
        print(
            f"{result['model']:16} seed {result['seed']}  {result['loss']:.4f} nats a byte   "
            f"paper: perplexity {result['paper']:.2f}   {result['cpu_seconds']:6.1f} s"
        )
