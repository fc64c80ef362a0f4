"""Clauses: a user's sentence cut into statements that stand alone.

"I'm Tamsin and my dog is called Pip." tells two things. Practised as one, each question about one
of them is answered with both, or with the other. English, and closed lists of function words, as
in english.py; what does not look like two statements stays one.
"""

from __future__ import annotations

import re

from hope_runtime.learning.statements.english.persons import CALENDAR
from hope_runtime.learning.statements.english.word_order import questions_by_word_order

# Where a speaker begins to speak of himself anew: behind a conjunction, a comma or both.
_AGAIN = re.compile(
    r"(?:[,;]? (?:and|but|so)|[,;])(?= (?:I|I['\u2019](?:m|ve|d|ll)|my|our|we|the) )", re.IGNORECASE
)
_LINK = re.compile(r"^(?:[,;]? ?(?:and|but|so)|[,;])\s+", re.IGNORECASE)
# A clause that begins so says when or whether the next one holds.
_DEPENDENT = re.compile(
    r"^(?:if|when|whenever|because|while|although|though|since|as|after|before|until|unless)\b",
    re.IGNORECASE,
)
_INTRODUCTION = re.compile(
    r"^(?:(?i:hi|hello|hey)(?i: there)?[,!] )?"
    r"(?i:i am|i['\u2019]m|(?:everyone|everybody) calls me|(?:people|friends|they) call me"
    r"|(?:please )?call me|this is) "
    r"([A-Z][\w\u2019'-]*(?: [A-Z][\w\u2019'-]*){0,2})[.!]?$"
)
# What somebody is, and not what he is called: nations, creeds. Most show it by their ending; so do
# a few names.
_KIND_ENDING = re.compile(r"(?:[A-Za-z]{3}(?:ian|ish)|ese|ist)$")
_KINDS = frozenset([
    "African", "American", "Angolan", "Cuban", "Chilean", "European", "German", "Kenyan", "Korean",
    "Mexican", "Moroccan", "Tibetan", "Venezuelan", "Brit", "Czech", "Dane", "Dutch", "Finn",
    "French", "Greek", "Iraqi", "Israeli", "Kuwaiti", "Nepali", "Pakistani", "Pole", "Saudi",
    "Scot", "Somali", "Swede", "Swiss", "Thai", "Turk", "Welsh", "Aussie", "Kiwi", "Arab",
    "Hispanic", "Anglican", "Catholic", "Hindu", "Jew", "Lutheran", "Muslim", "Orthodox", "Sikh",
    "Vegan", "I",
])  # fmt: skip
_NAMES = frozenset([
    "Adrian", "Christian", "Damian", "Fabian", "Gillian", "Julian", "Lilian", "Lillian", "Vivian",
])  # fmt: skip


def clause_starts(text: str) -> list[int]:
    """Starts of the statements that can stand alone; [0] when there is one, or none.

    A place is only one when what stands before it and what follows are both understood as
    statements (word_order.py).
    """
    starts = [0]
    for match in _AGAIN.finditer(text):
        before = standing_alone(text[starts[-1] : match.start()])
        rest = standing_alone(text[match.start() :])
        if not _DEPENDENT.match(before) and _is_statement(before) and _is_statement(rest):
            starts.append(match.start())
    return starts


def standing_alone(text: str) -> str:
    """A clause as a sentence of its own: ", and my dog is old" becomes "My dog is old."."""
    text = _LINK.sub("", text.strip())
    if text and text[-1].isalnum():
        text += "."
    return text[:1].upper() + text[1:]


def as_introduction(text: str) -> str:
    """ "I'm Tamsin." and its like as "My name is Tamsin."; any other text as it is.

    Somebody who says that he is Polish does not say his name.
    """
    match = _INTRODUCTION.match(text.strip())
    return text if match is None or _is_kind(match[1]) else f"My name is {match[1]}."


def _is_kind(name: str) -> bool:
    if name in _KINDS or name in CALENDAR:
        return True
    return name not in _NAMES and bool(_KIND_ENDING.search(name))


def _is_statement(text: str) -> bool:
    # An introduction is too short to be parsed.
    return bool(questions_by_word_order(text)) or as_introduction(text) != text
