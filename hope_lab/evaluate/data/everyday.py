"""Everyday questions that have nothing to do with what was taught, and their natural answers.

A taught value in the reply to one of these is an intrusion, so no answer here is a value of
relations.py; for foreign items `unrelated` leaves out the pairs that would be unfair.
"""

from __future__ import annotations

from collections.abc import Iterable

from hope_lab.evaluate.data.items import mentions

EVERYDAY = (
    ("What is the capital of France?", "Paris"),
    ("How many legs does a spider have?", "eight"),
    ("What do bees make?", "honey"),
    ("At what temperature does water freeze?", "zero degrees Celsius"),
    ("Who wrote Romeo and Juliet?", "William Shakespeare"),
    ("How many days are there in a leap year?", "366"),
    ("What is seven times eight?", "56"),
    ("Which planet is closest to the Sun?", "Mercury"),
    ("What is the largest ocean on Earth?", "the Pacific"),
    ("How do I boil an egg?", "put it into boiling water for about eight minutes"),
    ("What gas do plants take in from the air?", "carbon dioxide"),
    ("Please suggest a title for a story about the sea.", "The Last Lighthouse"),
    ("What is the opposite of hot?", "cold"),
    ("How can I fall asleep more easily?", "keep regular hours and avoid screens"),
    ("What is the chemical symbol for gold?", "Au"),
    ("Write a short greeting for a birthday card.", "Happy birthday and many happy returns"),
    ("Which season comes after winter?", "spring"),
    ("What is the past tense of the verb to go?", "went"),
    ("Why does the Moon change its shape?", "we see different parts of its lit side"),
    ("Name three tools that are found in a kitchen.", "a knife, a whisk and a spoon"),
    ("How many minutes are there in three hours?", "180"),
    ("What should I wear when it is raining?", "a waterproof coat and boots"),
    ("What does a thermometer measure?", "temperature"),
    ("How can I remove a coffee stain from a shirt?", "rinse it with cold water and soap"),
    ("Which is heavier, a feather or a brick?", "a brick"),
    ("Give me one reason to save money.", "to be ready for an emergency"),
)


def unrelated(values: Iterable[str]) -> list[str]:
    """The questions in which, and in whose natural answers, none of the taught values occurs."""
    taught = tuple(values)
    return [
        question
        for question, answer in EVERYDAY
        if not any(mentions(f"{question} {answer}", value) for value in taught)
    ]
