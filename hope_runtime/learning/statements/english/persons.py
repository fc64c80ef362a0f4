"""Grammatical person in English: first-person statements turned to the second person.

A user's "My name is Tamsin." is answered as "Your name is Tamsin.". Closed lists of function
words, no knowledge of any topic. Text in other languages matches nothing and is left as it is.
"""

from __future__ import annotations

import re

_SECOND = {
    "i": "you", "me": "you", "my": "your", "mine": "yours", "myself": "yourself",
    "i'm": "you're", "i've": "you've", "i'll": "you'll", "i'd": "you'd",
    "we": "you", "us": "you", "our": "your", "ours": "yours",
}  # fmt: skip
_SUBJECTS = frozenset(_SECOND) - {"me", "us", "myself"}
# Capitalised words that stand before names without being part of them ("Every Saturday Ann ...").
CALENDAR = frozenset(
    [
        "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday",
        "January", "February", "March", "April", "May", "June", "July", "August", "September",
        "October", "November", "December", "Mondays", "Tuesdays", "Wednesdays", "Thursdays",
        "Fridays", "Saturdays", "Sundays",
    ]
)  # fmt: skip
_WORD = re.compile(r"[A-Za-z][A-Za-z'\u2019]*")
_VERBS = ((r"\bI am\b", "I are"), (r"\bI was\b", "I were"), (r"\bam I\b", "are I"))


def is_first_person(text: str) -> bool:
    """Whether the speaker speaks of themselves."""
    return any(_plain(word) in _SECOND for word in _WORD.findall(text))


def speaks_of_himself(text: str) -> bool:
    """Whether the speaker is whom or whose something is said of: "I", "my"; not "Tell me."."""
    return any(_plain(word) in _SUBJECTS for word in _WORD.findall(text))


def to_second_person(text: str) -> str:
    """A first-person statement, turned to the second person."""
    for pattern, replacement in _VERBS:
        text = re.sub(pattern, replacement, text)

    def swap(match: re.Match[str]) -> str:
        other = _SECOND.get(_plain(match[0]))
        if other is None:
            return match[0]
        return other.capitalize() if match.start() == 0 else other

    return _WORD.sub(swap, text)


def _plain(word: str) -> str:
    return word.lower().replace("\u2019", "'")
