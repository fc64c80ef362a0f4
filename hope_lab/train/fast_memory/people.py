"""Names for the texts of `hope train fast-memory`: invented ones and common ones.

A name is held out or not by a digest of its letters, so training and evaluation never share one.
"""

from __future__ import annotations

import random
import zlib

_HELD_OUT_OF = 6
_STARTS = (
    *"bdfghjklmnprstvwyz", "br", "ch", "cl", "dr", "fr", "gl", "gr", "kr", "pr", "sh", "st", "sv",
    "th", "tr", "", "", "",
)  # fmt: skip
_VOWELS = (*"aeiouaeiouaeioy", "ai", "ea", "ie", "oo")
_ENDS = (*"nrlsmtkdx", "ck", "nd", "rn", "rt", "ss", "th", *[""] * 12)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST = _words(
    "Aaron Adam Alice Amir Amy Anders Andrea Anna Ben Bianca Boris Carla Carlos Chen Clara Daniel "
    "David Deepa Diego Dmitri Elena Elif Elise Emil Emma Eric Esther Eva Fatima Felix Fiona Frank "
    "Gabriel George Grace Greta Hana Hans Harry Helen Hugo Ines Ingrid Ivan Jack Jacob James Jane "
    "Jasper Joan John Jonas Josef Julia Karim Kate Kenji Lars Laura Leila Leo Linda Lisa Lucas "
    "Lucy Maria Mark Marta Martin Mary Max Maya Mei Michael Miguel Mira Mohamed Nadia Nina Noah "
    "Nora Olga Oliver Omar Oscar Paula Pavel Peter Petra Philip Priya Rachel Raj Ravi Rebecca "
    "Robert Rosa Ruth Samir Samuel Sara Sofia Stefan Susan Tariq Tessa Thomas Tim Tom Vera Victor "
    "Walter Wendy Yara Yuki Yusuf Zara Zoe"
)
LAST = _words(
    "Abbott Adler Bauer Becker Bell Berg Bianchi Bishop Blake Brandt Carter Castro Chang Cole "
    "Costa Cruz Dahl Diaz Dixon Duarte Ellis Evans Fischer Foster Fox Garcia Gibson Gomez Grant "
    "Gupta Haas Hall Hansen Hart Hayes Holm Hunt Ivanov Jensen Jordan Kane Kaya Keller Khan Kim "
    "Klein Kovac Lam Larsen Lee Lopez Lund Marsh Meyer Mills Moreno Murphy Nair Novak Olsen Ortiz "
    "Park Patel Perez Petrov Pope Ramos Reed Reyes Rossi Roth Russo Sato Shah Silva Singh Sloan "
    "Stone Suzuki Tanaka Torres Vance Vogel Wagner Walsh Ward Webb Weber West Wolf Wood Young"
)


def name(rng: random.Random, *, held_out: bool) -> str:
    """Somebody's name, of one or two words."""
    while True:
        kind = rng.random()
        if kind < 0.25:
            words = [rng.choice(FIRST)]
            if rng.random() < 0.5:
                words.append(rng.choice(LAST))
        else:
            words = [_word(rng) for _ in range(1 if rng.random() < 0.7 else 2)]
        chosen = " ".join(words)
        if is_held_out(chosen) == held_out:
            return chosen


def filled(rng: random.Random, pattern: str, *, held_out: bool) -> str:
    """A thing's name: invented words for {w} and digits for {d} in `pattern`."""
    while "{w}" in pattern:
        word = _word(rng)
        if is_held_out(word) == held_out:
            pattern = pattern.replace("{w}", word, 1)
    while "{d}" in pattern:
        pattern = pattern.replace("{d}", str(rng.randrange(10)), 1)
    return pattern


def is_held_out(text: str) -> bool:
    """Whether a name belongs to evaluation: so does every name with one of its words."""
    return any(zlib.crc32(word.encode()) % _HELD_OUT_OF == 0 for word in text.split())


def _word(rng: random.Random) -> str:
    syllables = rng.choice((2, 2, 2, 3))
    parts = [
        rng.choice(_STARTS) + rng.choice(_VOWELS) + (rng.choice(_ENDS) if last else "")
        for last in [False] * (syllables - 1) + [True]
    ]
    return "".join(parts).capitalize()
