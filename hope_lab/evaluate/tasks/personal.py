"""The task `personal`: a user introduces himself in one message, and asks about it in a new chat.

Counts what a user would: the right value, said about *him*. "My name is Tamsin" is a wrong answer
to "What is my name?", though it names the right value; how many replies hold the value at all is
given beside (`named`).
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hope_lab.evaluate.asking import first_sentence, is_correct
from hope_lab.evaluate.data.course import Asked, Course, Lesson
from hope_lab.evaluate.data.items import invented_names
from hope_lab.evaluate.options import add_arm_options, add_run_options, count
from hope_lab.evaluate.report.presenting import print_result, settings
from hope_lab.evaluate.report.report import Share
from hope_lab.evaluate.running import bench
from hope_lab.evaluate.scoring import correct, costs, rows, trials_of

NAME = "personal"
SUMMARY = "facts that users tell about themselves in one message, asked in a new conversation"

NEW_TOKENS = 24
# Two facts that follow each other become one sentence this often.
JOINED_SHARE = 0.3
_SPEAKER = re.compile(r"(?<![\w'\u2019])(?:I|my|mine|me|myself|we|our)(?![\w])", re.IGNORECASE)
_USER = re.compile(r"(?<!\w)(?:you|your|yours|yourself)(?!\w)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class About:
    """One thing that people say about themselves. Without `values` it is an invented name."""

    told: tuple[str, ...]
    asked: tuple[str, ...]
    values: tuple[str, ...] = ()


def _values(text: str) -> tuple[str, ...]:
    return tuple(value.strip() for value in text.split(","))


_NAME = About(
    ("My name is {v}.", "I'm {v}.", "People call me {v}."),
    ("What is my name?", "Who am I?", "Do you remember what I am called?"),
)
_CITIES = _values("Bremen, Leeds, Porto, Tampere, Boston, Quito, Kyoto, Galway, Utrecht, Dakar")
_THINGS = (
    About(
        ("I live in {v}.", "My home is in {v}.", "I moved to {v} last year."),
        ("Where do I live?", "Which city do I live in?", "What town is my home in?"),
        _CITIES,
    ),
    About(
        ("I work as a {v}.", "I'm a {v} by profession.", "I earn my living as a {v}."),
        ("What is my job?", "What do I do for a living?", "What do I work as?"),
        _values("baker, surveyor, nurse, plumber, welder, tailor, florist, translator, carpenter"),
    ),
    About(
        ("My dog is called {v}.", "I have a dog named {v}.", "My dog's name is {v}."),
        ("What is my dog's name?", "What is my dog called?", "What did I name my dog?"),
    ),
    About(
        ("My sister is called {v}.", "My sister's name is {v}.", "I have a sister named {v}."),
        ("What is my sister's name?", "What is my sister called?", "Who is my sister?"),
    ),
    About(
        ("I'm allergic to {v}.", "I am allergic to {v}.", "I have an allergy to {v}."),
        ("What am I allergic to?", "Which allergy do I have?", "What should I never eat?"),
        _values("peanuts, shellfish, strawberries, sesame, celery, walnuts, kiwi, mustard"),
    ),
    About(
        ("My favourite colour is {v}.", "The colour I like best is {v}."),
        ("What is my favourite colour?", "Which colour do I like best?"),
        _values("green, purple, orange, turquoise, yellow, crimson, silver, brown"),
    ),
    About(
        ("I play the {v}.", "I've been learning the {v}.", "In my free time I play the {v}."),
        ("What instrument do I play?", "Which instrument am I learning?"),
        _values("cello, banjo, trumpet, oboe, harp, drums, accordion, flute, violin"),
    ),
    About(
        ("My birthday is in {v}.", "I was born in {v}.", "I celebrate my birthday in {v}."),
        ("Which month is my birthday in?", "In which month was I born?", "When is my birthday?"),
        _values("January, February, April, June, July, August, October, November, December"),
    ),
    About(
        ("I drive a {v}.", "My car is a {v}.", "I own a {v}."),
        ("What car do I drive?", "What kind of car do I have?", "Which car is mine?"),
        _values("Volvo, Fiat, Toyota, Skoda, Honda, Renault, Mazda, Subaru, Peugeot"),
    ),
    About(
        ("I'm learning {v} at the moment.", "I study {v} in the evenings.", "I'm studying {v}."),
        ("What language am I learning?", "Which language do I study?"),
        _values("Portuguese, Japanese, Welsh, Turkish, Finnish, Arabic, Greek, Korean, Polish"),
    ),
    About(
        ("I always drink {v} in the morning.", "My favourite drink is {v}.", "I love {v}."),
        ("What do I like to drink?", "What is my favourite drink?", "Which drink do I love?"),
        _values("cocoa, espresso, ginger tea, lemonade, cider, matcha, buttermilk, chai"),
    ),
)
_GREETINGS = ("Hi!", "Hello!", "Hi, nice to meet you.", "Let me introduce myself.", "")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `hope evaluate personal`."""
    add_run_options(parser)
    add_arm_options(parser)
    told = parser.add_argument_group("users and their facts")
    told.add_argument(
        "--people",
        type=count(1),
        default=3,
        help="users per seed, with one memory each (default 3)",
    )
    told.add_argument(
        "--facts",
        type=int,
        choices=range(1, len(_THINGS) + 2),
        default=6,
        metavar="N",
        help="facts per user, including the name (default 6)",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the task and prints what it found. Returns the exit code."""
    courses = [
        make_course(seed, person, args.facts)
        for seed in args.seeds
        for person in range(args.people)
    ]
    with bench(args) as ready:
        taken = ready.take(NAME, courses, args)
        document = settings(NAME, args, ready)
    trials = trials_of(taken)
    named = [row["score"] for row in rows(trials, (), correct)]
    found = rows(trials, (), to_the_user)
    document |= {
        "facts": args.facts,
        "rows": [row | {"named": n} for row, n in zip(found, named, strict=True)],
        "per_seed": rows(trials, ("seed",), to_the_user),
        "costs": costs(taken, ()),
    }
    print_result(document, args, ("rows", "costs"), trials)
    return 0


def make_course(seed: int, person: int, facts: int) -> Course:
    """One user's message with `facts` facts, his name first, and a question about each."""
    rng = random.Random(f"personal:{seed}:{person}")
    names = invented_names(rng)
    chosen = [_NAME, *rng.sample(_THINGS, facts - 1)]
    values = [next(names).split()[0] if not a.values else rng.choice(a.values) for a in chosen]
    told = [
        rng.choice(about.told).format(v=value) for about, value in zip(chosen, values, strict=True)
    ]
    asked = tuple(
        Asked(rng.choice(about.asked), (value,), _others(about, value, values))
        for about, value in zip(chosen, values, strict=True)
    )
    message = " ".join(filter(None, (rng.choice(_GREETINGS), *_joined(told, rng))))
    lesson = Lesson("introduction", (message,), asked, "chat")
    return Course({"seed": seed, "person": person}, (lesson,), NEW_TOKENS)


def to_the_user(cell: Sequence[tuple[Asked, str]]) -> tuple[float | None, Sequence[float]]:
    """Share of correct replies (`is_correct`) that do not say it of somebody else."""
    share = Share.of(
        is_correct(reply, asked.values[0], asked.others) and in_right_person(reply)
        for asked, reply in cell
    )
    return share.rate, share.interval


def in_right_person(reply: str) -> bool:
    """Whether the first sentence speaks to the user, or of nobody: "It is Oslo." is right too,
    "I live in Oslo." is not."""
    sentence = first_sentence(reply)
    return bool(_USER.search(sentence)) or not _SPEAKER.search(sentence)


def _joined(told: Sequence[str], rng: random.Random) -> Iterator[str]:
    """Sentences, some of them of two facts."""
    held = ""
    for sentence in told:
        if held and rng.random() < JOINED_SHARE:
            begin = sentence if sentence.startswith(("I ", "I'")) else _lower(sentence)
            yield f"{held[:-1]} and {begin}"
            held = ""
            continue
        if held:
            yield held
        held = sentence
    if held:
        yield held


def _lower(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]


def _others(about: About, value: str, values: Sequence[str]) -> tuple[str, ...]:
    """Wrong values: of the same kind, or what else was told."""
    of_kind = [other for other in about.values if other != value]
    return tuple(dict.fromkeys((*of_kind, *(other for other in values if other != value))))
