"""The task `babilong`: the facts of a short story scattered over a long text, and a question.

After BABILong (Kuratov et al., 2024): the facts stand in their order, at random depths, and what
lies between them has nothing to do with them. Stories come from files that the user has
(babi.py), not from this project.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hope_lab.evaluate.data.babi import Story, read_stories
from hope_lab.evaluate.data.course import Asked, Course, Lesson
from hope_lab.evaluate.data.filler import load_text
from hope_lab.evaluate.data.haystack import Haystack, Hidden, Prose
from hope_lab.evaluate.data.items import mentions
from hope_lab.evaluate.options import add_arm_options, add_run_options
from hope_lab.evaluate.report.plotting import plot_curves
from hope_lab.evaluate.report.presenting import curves_over, print_result, settings
from hope_lab.evaluate.running import bench
from hope_lab.evaluate.scoring import correct, costs, rows, trials_of
from hope_lab.evaluate.tasks.needle import add_haystack_options
from hope_runtime.tokenizer import Tokenizer

NAME = "babilong"
SUMMARY = "facts of a story scattered over a long text"

TASKS = (1, 2, 3, 4, 5)
NEW_TOKENS = 16


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `hope evaluate babilong`."""
    add_run_options(parser)
    add_arm_options(parser)
    told = parser.add_argument_group("hidden stories")
    told.add_argument(
        "--stories",
        type=Path,
        required=True,
        metavar="PATH",
        help="file in the bAbI format, or directory of qa1_*.txt and so on",
    )
    told.add_argument(
        "--tasks",
        nargs="+",
        type=int,
        choices=TASKS,
        default=[1],
        help="task number within a directory (default 1)",
    )
    add_haystack_options(told)


def run(args: argparse.Namespace) -> int:
    """Runs the task and prints what it found. Returns the exit code."""
    stories = {task: read_stories(args.stories, task) for task in args.tasks}
    prose = Prose(load_text(args.text, instead="--text PATH"))
    with bench(args) as ready:
        courses = list(make_courses(args, stories, prose, ready.tokenizer))
        taken = ready.take(NAME, courses, args)
        document = settings(NAME, args, ready)
    trials = trials_of(taken)
    document |= {
        "rows": rows(trials, ("story", "length"), correct),
        "per_seed": rows(trials, ("story", "length", "seed"), correct),
        "costs": costs(taken, ("story", "length")),
    }
    if args.plot is not None:
        panels = curves_over(document["rows"], "length", "story")
        titled = {f"task {title}": curves for title, curves in panels.items()}
        plot_curves(args.plot, titled, x_label="tokens", y_label="share correct", log_x=True)
    print_result(document, args, ("rows", "costs"), trials)
    return 0


def make_courses(
    args: argparse.Namespace,
    stories: Mapping[int, Sequence[Story]],
    prose: Prose,
    tokenizer: Tokenizer,
) -> Iterator[Course]:
    """A course for each task, length, seed and sample: one story in one text."""
    for task, known in stories.items():
        answers = sorted({story.answer for story in known})
        for seed in args.seeds:
            rng = random.Random(f"babilong:{task}:{seed}")
            chosen = rng.sample(known, min(args.samples, len(known)))
            for length in args.lengths:
                for sample, story in enumerate(chosen):
                    place = seed * 1_000_003 + sample
                    text = Haystack(prose, tokenizer, length, scattered(story, place), place)
                    labels = {"story": task, "length": length, "seed": seed, "sample": sample}
                    lesson = Lesson("text", text, (asked_of(story, answers),))
                    yield Course(labels, (lesson,), NEW_TOKENS)


def scattered(story: Story, seed: int) -> tuple[Hidden, ...]:
    """The facts in their order, at depths drawn uniformly."""
    rng = random.Random(f"depths:{seed}")
    depths = sorted(rng.random() for _ in story.facts)
    return tuple(map(Hidden, depths, story.facts))


def asked_of(story: Story, answers: Sequence[str]) -> Asked:
    """The question; wrong are all other answers of the task that it does not name itself."""
    others = tuple(
        answer
        for answer in answers
        if not mentions(story.answer, answer) and not mentions(story.question, answer)
    )
    return Asked(f"{story.question} Answer with one word.", (story.answer,), others)
