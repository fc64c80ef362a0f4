"""The task `ctnl`: continual translation of new languages.

After the task of that name in the Nested Learning paper (Behrouz et al., 2025), which
takes two languages that hardly anybody writes; here they are invented from the seed (languages.py),
so that no base can know them. One language is taught and tested, then a second one, and then the
first is tested again; the second is also taught alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from hope_lab.evaluate.data.course import Asked, Course, Lesson, Told
from hope_lab.evaluate.data.languages import english, make_language, sentences
from hope_lab.evaluate.options import add_arm_options, add_run_options, count
from hope_lab.evaluate.report.plotting import plot_matrices
from hope_lab.evaluate.report.presenting import print_result, settings
from hope_lab.evaluate.report.retention import matrices, to_draw
from hope_lab.evaluate.running import bench
from hope_lab.evaluate.scoring import costs, rows, translated, trials_of

NAME = "ctnl"
SUMMARY = "translation of invented languages, one after another"

FIRST, SECOND = "first", "second"
SEQUENCE, ALONE = "sequence", "second alone"
NEW_TOKENS = 32
# Fewer sentences would leave words of the lexicon out.
LEAST_PAIRS = 10


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `hope evaluate ctnl`."""
    add_run_options(parser)
    add_arm_options(parser)
    told = parser.add_argument_group("taught lessons")
    told.add_argument(
        "--pairs", type=count(LEAST_PAIRS), default=40, help="sentences per language (default 40)"
    )
    told.add_argument(
        "--tests", type=count(1), default=10, help="questions per language (default 10)"
    )
    told.add_argument(
        "--told",
        choices=("chat", "document"),
        default="document",
        help="input type of the lessons (default document)",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the task and prints what it found. Returns the exit code."""
    courses = [
        course
        for seed in args.seeds
        for course in make_courses(seed, args.pairs, args.tests, args.told)
    ]
    with bench(args) as ready:
        taken = ready.take(NAME, courses, args)
        document = settings(NAME, args, ready)
    trials = trials_of(taken)
    by = ("course", "after", "about")
    found = rows(trials, by, translated)
    sequence = [row for row in found if row["course"] == SEQUENCE]
    document |= {
        "pairs": args.pairs,
        "told": args.told,
        "rows": found,
        "per_seed": rows(trials, (*by, "seed"), translated),
        "matrices": matrices(sequence, (FIRST, SECOND)),
        "costs": costs(taken, ("course",)),
    }
    if args.plot is not None:
        drawn = to_draw(document["matrices"])
        plot_matrices(args.plot, drawn, x_label="language", y_label="after lesson", top=100)
    print_result(document, args, ("rows", "costs"), trials)
    return 0


def make_courses(seed: int, pairs: int, tests: int, told: Told) -> list[Course]:
    """Both languages in sequence, and the second one alone."""
    first = make_lesson(seed, 0, pairs, tests, told)
    second = make_lesson(seed, 1, pairs, tests, told)
    both = Lesson(second.name, second.text, (*first.asked, *second.asked), told)
    return [
        Course({"course": SEQUENCE, "seed": seed}, (first, both), NEW_TOKENS),
        Course({"course": ALONE, "seed": seed}, (second,), NEW_TOKENS),
    ]


def make_lesson(seed: int, number: int, pairs: int, tests: int, told: Told) -> Lesson:
    """Sentences of a language with their meaning, and others to translate into English."""
    language = make_language(seed, number)
    taught, tested = sentences(seed, number, pairs, tests)
    name = (FIRST, SECOND)[number]
    statements = tuple(
        f'The {language.name} sentence "{language.say(meaning)}" means "{english(meaning)}".'
        for meaning in taught
    )
    asked: Sequence[Asked] = [
        Asked(
            f'What does the {language.name} sentence "{language.say(meaning)}" mean in English?',
            (english(meaning),),
            about=name,
        )
        for meaning in tested
    ]
    return Lesson(name, statements, tuple(asked), told)
