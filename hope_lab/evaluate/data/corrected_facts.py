"""Pairs of statements, the later one correcting the earlier: plain data, filled from seeds.

The wordings are those of people: "now", "no longer", "moved", "actually", "sold and bought", "not X
but Y", and none at all. Cut in two by seed like specificity_facts.py.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from hope_lab.evaluate.data.items import invented_names
from hope_lab.evaluate.data.specificity_facts import half, words


@dataclass(frozen=True, slots=True)
class Corrected:
    """A statement, its correction, two questions, and the values in that order."""

    wording: str
    first: str
    later: str
    asked: tuple[str, str]
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class _Form:
    wording: str
    first: str
    later: str
    asked: tuple[str, str]
    # Empty: invented names.
    values: tuple[str, ...] = ()


_TOWNS = words("Leeds, Porto, Graz, Nantes, Bergen, Malaga, Tampere, Aarhus, Ghent, Quito")
_JOBS = words("nurse, baker, tailor, welder, florist, plumber, teacher, surveyor")
_COLOURS = words("green, purple, orange, silver, turquoise, yellow, crimson, brown")
_CARS = words("Volvo, Fiat, Skoda, Mazda, Renault, Peugeot, Subaru, Lancia")
_DRINKS = words("cocoa, cider, espresso, lemonade, chai, kefir, matcha, buttermilk")
_SPORTS = words("tennis, hockey, rowing, judo, fencing, handball, archery, badminton")
_SIZES = words("38, 41, 43, 37, 44, 39, 42, 40")
_NOUNS = words("cat, boss, dog, neighbour, horse, tutor, parrot, landlord")
_ASKED_NOUN = ("What is my {x} called?", "Do you know the name of my {x}?")

FORMS = (
    _Form("now", "My {x} is called {a}.", "My {x} is now called {b}.", _ASKED_NOUN),
    _Form("now", "I work as a {a}.", "I'm a {b} now.",
          ("What is my job?", "What work do I do?"), _JOBS),
    _Form("no longer", "My favourite colour is {a}.",
          "My favourite colour is no longer {a}, it is {b}.",
          ("What is my favourite colour?", "Which colour do I like best?"), _COLOURS),
    _Form("no longer", "I play {a}.", "I no longer play {a}, I play {b}.",
          ("Which sport do I play?", "What sport do I do?"), _SPORTS),
    _Form("moved", "I live in {a}.", "I moved to {b} last month.",
          ("Where do I live?", "Which town do I live in?"), _TOWNS),
    _Form("moved", "My home is in {a}.", "I have moved to {b}.",
          ("Where is my home?", "Where do I live?"), _TOWNS),
    _Form("actually", "My {x} is called {a}.", "Actually, my {x}'s name is {b}.", _ASKED_NOUN),
    _Form("actually", "My shoe size is {a}.", "Actually, my shoe size is {b}.",
          ("What is my shoe size?", "Which shoe size do I have?"), _SIZES),
    _Form("sold and bought", "I drive a {a}.", "I sold the {a} and bought a {b}.",
          ("Which car do I drive?", "What car do I have?"), _CARS),
    _Form("sold and bought", "My car is a {a}.", "I sold my {a} and now I drive a {b}.",
          ("What car do I drive?", "Which car is mine?"), _CARS),
    _Form("not X but Y", "My {x} is called {a}.", "My {x} is not called {a} but {b}.",
          _ASKED_NOUN),
    _Form("not X but Y", "My favourite drink is {a}.",
          "My favourite drink is not {a} but {b}.",
          ("What is my favourite drink?", "Which drink do I like best?"), _DRINKS),
    _Form("none", "My {x} is called {a}.", "My {x} is called {b}.", _ASKED_NOUN),
    _Form("none", "My favourite colour is {a}.", "My favourite colour is {b}.",
          ("What is my favourite colour?", "Which colour do I like most?"), _COLOURS),
    _Form("another", "{n} lives in {a}.", "{n} lives in {b} now.",
          ("Where does {n} live?", "Which town does {n} live in?"), _TOWNS),
    _Form("another", "{n}'s {x} is called {a}.", "{n}'s {x} is now called {b}.",
          ("What is {n}'s {x} called?", "Do you know the name of {n}'s {x}?")),
    _Form("instead", "My favourite drink is {a}.", "I like {b} best instead of {a} these days.",
          ("What is my favourite drink?", "Which drink do I like best?"), _DRINKS),
    _Form("renamed", "My {x} is called {a}.", "We renamed my {x}, it is called {b} now.",
          _ASKED_NOUN),
    _Form("sorry", "I work as a {a}.", "Sorry, I work as a {b}.",
          ("What is my job?", "How do I earn my living?"), _JOBS),
    _Form("it is", "My {x} is called {a}.", "No, it is {b}, not {a}.", _ASKED_NOUN),
)  # fmt: skip


def corrections(seed: int, count: int) -> list[Corrected]:
    """`count` pairs, each form once before any comes again; the same for the same seed."""
    rng = random.Random(f"corrections:{seed}")
    names = (name.split()[0] for name in invented_names(rng))
    forms = list(FORMS)
    rng.shuffle(forms)
    return [_filled(forms[index % len(forms)], seed, rng, names) for index in range(count)]


def _filled(form: _Form, seed: int, rng: random.Random, names: Iterator[str]) -> Corrected:
    pool = half(form.values, seed)
    old, new = rng.sample(pool, 2) if pool else (next(names), next(names))
    given = {"n": next(names), "x": rng.choice(half(_NOUNS, seed)), "a": old, "b": new}
    first, second = (asked.format(**given) for asked in form.asked)
    told = (form.first.format(**given), form.later.format(**given))
    return Corrected(form.wording, *told, (first, second), old, new)
