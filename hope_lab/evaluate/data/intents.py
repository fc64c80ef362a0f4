"""Intents and utterances made from a seed: what people want of a machine, under invented names.

A class is an action on a thing; its label is an invented word, so that it can be learnt and not
guessed. Knows how they are made, and not how they are taught.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from hope_lab.evaluate.data.items import invented_names

# What is done, each in two wordings.
ACTIONS = (
    ("book", "reserve"),
    ("cancel", "call off"),
    ("find", "look for"),
    ("repair", "fix"),
    ("explain", "tell me about"),
    ("pay for", "settle the bill for"),
)
# What it is done to, each in two wordings.
THINGS = (
    ("the flight", "the plane ticket"),
    ("the hotel room", "the place to stay"),
    ("the phone contract", "the mobile plan"),
    ("the parcel", "the package"),
    ("the bank card", "the debit card"),
    ("the dinner table", "the seat at the restaurant"),
    ("the rented car", "the hire car"),
    ("the doctor's appointment", "the visit to the clinic"),
)
FRAMES = (
    "Please {action} {thing}",
    "Could you {action} {thing}",
    "I want you to {action} {thing}",
    "I need somebody to {action} {thing}",
    "Can you {action} {thing} today",
    "It would help me if you could {action} {thing}",
)
UTTERANCES = len(FRAMES) * 4
CLASSES = len(ACTIONS) * len(THINGS)


@dataclass(frozen=True, slots=True)
class Intent:
    """A class: its label, and utterances that mean it, to teach and to test."""

    label: str
    taught: tuple[str, ...]
    tested: tuple[str, ...]


def make_intents(seed: int, classes: int, taught: int, tested: int) -> list[Intent]:
    """So many classes, at most CLASSES, with at most UTTERANCES utterances in all each.

    No utterance is both taught and tested, and none means two intents.
    """
    assert classes <= CLASSES
    assert taught + tested <= UTTERANCES
    rng = random.Random(f"intents:{seed}")
    labels = (name.split()[0].lower() for name in invented_names(rng))
    pairs = [(action, thing) for action in ACTIONS for thing in THINGS]
    intents = []
    for actions, things in rng.sample(pairs, classes):
        all_of_it = [
            frame.format(action=action, thing=thing)
            for frame in FRAMES
            for action in actions
            for thing in things
        ]
        chosen = rng.sample(all_of_it, taught + tested)
        intents.append(Intent(next(labels), tuple(chosen[:taught]), tuple(chosen[taught:])))
    return intents
