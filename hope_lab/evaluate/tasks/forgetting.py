"""The task `forgetting`: many sessions of different subjects in one stream.

Each session tells a few facts of one relation about invented people (relations.py); after each,
all that was told so far is asked. The result is a matrix: what is still known of each subject
after each session.
"""

from __future__ import annotations

import argparse
import random

from hope_lab.evaluate.data.course import Asked, Course, Lesson, Told
from hope_lab.evaluate.data.items import Item, facts_of, invented_names
from hope_lab.evaluate.data.relations import RELATIONS
from hope_lab.evaluate.options import add_arm_options, add_run_options, count
from hope_lab.evaluate.report.plotting import plot_matrices
from hope_lab.evaluate.report.presenting import print_result, settings
from hope_lab.evaluate.report.retention import matrices, to_draw
from hope_lab.evaluate.running import bench
from hope_lab.evaluate.scoring import correct, costs, rows, trials_of

NAME = "forgetting"
SUMMARY = "recall of each subject after sessions about many others"

NEW_TOKENS = 24


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `hope evaluate forgetting`."""
    add_run_options(parser)
    add_arm_options(parser)
    told = parser.add_argument_group("taught facts")
    told.add_argument(
        "--sessions",
        type=int,
        choices=range(1, len(RELATIONS) + 1),
        default=len(RELATIONS),
        metavar="N",
        help=f"number of subjects (default {len(RELATIONS)})",
    )
    told.add_argument("--facts", type=count(1), default=3, help="facts per session (default 3)")
    told.add_argument(
        "--told",
        choices=("chat", "document"),
        default="chat",
        help="input type of the facts (default chat)",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the task and prints what it found. Returns the exit code."""
    courses = [make_course(seed, args.sessions, args.facts, args.told) for seed in args.seeds]
    with bench(args) as ready:
        taken = ready.take(NAME, courses, args)
        document = settings(NAME, args, ready)
    trials = trials_of(taken)
    names = [lesson.name for lesson in courses[0].lessons]
    document |= {
        "facts": args.facts,
        "told": args.told,
        "rows": rows(trials, ("after",), correct),
        "per_seed": rows(trials, ("after", "seed"), correct),
        "matrices": matrices(rows(trials, ("after", "about"), correct), names),
        "costs": costs(taken, ()),
    }
    if args.plot is not None:
        drawn = to_draw(document["matrices"])
        plot_matrices(args.plot, drawn, x_label="session", y_label="after session", top=1)
    print_result(document, args, ("rows", "costs"), trials)
    return 0


def make_course(seed: int, sessions: int, facts: int, told: Told) -> Course:
    """Sessions of one relation each, in an order that the seed shuffles; no person comes twice."""
    rng = random.Random(f"forgetting:{seed}")
    names = invented_names(rng)
    lessons = []
    asked: list[Asked] = []
    for index, relation in enumerate(rng.sample(RELATIONS, sessions), start=1):
        items = facts_of(relation, facts, names, rng)
        asked += [_question(item, str(index)) for item in items]
        told_here = tuple(item.told for item in items)
        lessons.append(Lesson(str(index), told_here, tuple(asked), told))
    return Course({"seed": seed}, tuple(lessons), NEW_TOKENS)


def _question(item: Item, about: str) -> Asked:
    return Asked(item.question, (item.value,), item.others, about)
