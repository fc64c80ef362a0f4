"""The task `incremental`: text classification whose classes arrive in sessions.

After each session utterances of all classes so far are classified, against all their labels.
Classes and labels are made from the seed (intents.py), so that no base can know them.
"""

from __future__ import annotations

import argparse

from hope_lab.evaluate.data.course import Asked, Course, Lesson, Told
from hope_lab.evaluate.data.intents import CLASSES, UTTERANCES, Intent, make_intents
from hope_lab.evaluate.options import add_arm_options, add_run_options, count
from hope_lab.evaluate.report.plotting import plot_matrices
from hope_lab.evaluate.report.presenting import print_result, settings
from hope_lab.evaluate.report.retention import matrices, to_draw
from hope_lab.evaluate.running import bench
from hope_lab.evaluate.scoring import correct, costs, rows, trials_of
from hope_runtime.errors import InvalidRequestError

NAME = "incremental"
SUMMARY = "classification whose classes arrive in sessions"

NEW_TOKENS = 16


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `hope evaluate incremental`."""
    add_run_options(parser)
    add_arm_options(parser)
    told = parser.add_argument_group("taught classes")
    told.add_argument("--sessions", type=count(1), default=4, help="number of sessions (default 4)")
    told.add_argument("--classes", type=count(1), default=3, help="classes per session (default 3)")
    told.add_argument("--examples", type=count(1), default=5, help="examples per class (default 5)")
    told.add_argument(
        "--tests", type=count(1), default=3, help="test utterances per class (default 3)"
    )
    told.add_argument(
        "--told",
        choices=("chat", "document"),
        default="chat",
        help="input type of the examples (default chat)",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the task and prints what it found. Returns the exit code."""
    courses = [
        make_course(seed, args.sessions, args.classes, args.examples, args.tests, args.told)
        for seed in args.seeds
    ]
    with bench(args) as ready:
        taken = ready.take(NAME, courses, args)
        document = settings(NAME, args, ready)
    trials = trials_of(taken)
    found = rows(trials, ("after",), correct)
    cells = rows(trials, ("after", "about"), correct)
    names = [lesson.name for lesson in courses[0].lessons]
    document |= {
        "classes": args.classes,
        "examples": args.examples,
        "told": args.told,
        "rows": found,
        "per_seed": rows(trials, ("after", "seed"), correct),
        "matrices": matrices(cells, names),
        "costs": costs(taken, ()),
    }
    if args.plot is not None:
        drawn = to_draw(document["matrices"])
        plot_matrices(
            args.plot, drawn, x_label="classes of session", y_label="after session", top=1
        )
    print_result(document, args, ("rows", "costs"), trials)
    return 0


def make_course(
    seed: int, sessions: int, classes: int, examples: int, tests: int, told: Told
) -> Course:
    """Sessions of new classes. Raises InvalidRequestError for more than there are."""
    if sessions * classes > CLASSES:
        raise InvalidRequestError(
            f"{sessions} sessions of {classes} classes exceed the {CLASSES} available classes",
            field="classes",
        )
    if examples + tests > UTTERANCES:
        raise InvalidRequestError(
            f"{examples} examples and {tests} tests exceed the {UTTERANCES} utterances of a class",
            field="examples",
        )
    intents = make_intents(seed, sessions * classes, examples, tests)
    lessons = []
    asked: list[Asked] = []
    for index in range(sessions):
        own = intents[index * classes : (index + 1) * classes]
        known = intents[: (index + 1) * classes]
        name = str(index + 1)
        asked = [_against(question, known) for question in asked]
        asked += [_question(intent, text, known, name) for intent in own for text in intent.tested]
        lessons.append(Lesson(name, _statements(own, examples), tuple(asked), told))
    return Course({"seed": seed}, tuple(lessons), NEW_TOKENS)


def _statements(intents: list[Intent], examples: int) -> tuple[str, ...]:
    """The classes in turn, so that no label is told many times in a row."""
    return tuple(
        f'The request "{intent.taught[place]}" belongs to the category {intent.label}.'
        for place in range(examples)
        for intent in intents
    )


def _question(intent: Intent, text: str, known: list[Intent], about: str) -> Asked:
    question = f'To which category does the request "{text}" belong? Answer with its name.'
    return _against(Asked(question, (intent.label,), about=about), known)


def _against(asked: Asked, known: list[Intent]) -> Asked:
    """The question with the labels of all classes so far as wrong answers, but for its own."""
    others = tuple(intent.label for intent in known if intent.label not in asked.values)
    return Asked(asked.text, asked.values, others, asked.about)
