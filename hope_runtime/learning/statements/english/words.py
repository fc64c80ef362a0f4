"""Key words of English statements and questions, and the questions of the library."""

from __future__ import annotations

import re
from functools import cache

from hope_runtime.learning.statements.english import library
from hope_runtime.learning.statements.english.indirect import indirect
from hope_runtime.learning.statements.english.statement import Statement
from hope_runtime.learning.statements.english.word_order import value_of
from hope_runtime.learning.statements.parser import Anchor

_LEAD = re.compile(r"I forgot: ")
_WORD = re.compile(r"[^\W_]+")
# The key of questions for the user's own name.
OWN_NAME = "my name"


def words_of(*texts: str) -> frozenset[str]:
    """All words of some texts, in lower case."""
    return frozenset(word for text in texts for word in _WORD.findall(text.lower()))


def keys_of_question(question: str) -> frozenset[str]:
    """The words that tell what a question is about."""
    return words_of(question) - library.GENERIC


def keys_of(statement: Statement) -> frozenset[str]:
    """The words that tell what a statement and its questions are about, its value left out."""
    value = value_of(statement.stated) or ""
    found = set(words_of(statement.stated, *statement.questions))
    found -= words_of(value) | library.GENERIC
    found |= {word[:-1] for word in found if word.endswith("s") and len(word) > 3}
    text = " ".join((statement.stated, *statement.questions)).lower()
    if re.search(r"\bmy name\b|\bwho am i\b", text):
        found.add(OWN_NAME)
    return frozenset(found)


def topics(keys: frozenset[str]) -> frozenset[str]:
    """Key words and those that tell of the same."""
    return keys.union(*(group for group in library.TOPICS if group & keys))


def of_another(question: str, whose: str) -> str:
    """A question of the first person, asked about `whose`: a name, "my" and a noun, or "you". Who
    asks, as in "I forgot: ...", stays."""
    begun = _LEAD.match(question)
    lead = begun[0] if begun else ""
    question = question[len(lead) :]
    swaps: tuple[tuple[str, str], ...]
    if whose == "you":
        swaps = (
            ("am I", "are you"), ("was I", "were you"), ("I am", "you are"), ("I was", "you were"),
            ("I", "you"), ("my", "your"),
        )  # fmt: skip
    else:
        swaps = (
            ("do I", "does \0"), ("am I", "is \0"), ("Am I", "Is \0"),
            ("have I", "has \0"), ("I am", "\0 is"), ("I have", "\0 has"), ("I", "\0"),
            ("my", "\0's"), ("address me", "address \0"),
        )  # fmt: skip
    for old, new in swaps:
        question = re.sub(rf"\b{old}\b", new, question)
    # At the end, so that "my" in it is not swapped.
    return lead + question.replace("\0", whose)


@cache
def nouns() -> tuple[str, ...]:
    """Relatives, pets and things of people that bear a name."""
    parts = (library.PEOPLE, library.PETS, library.THINGS)
    return tuple(group.split()[0] for part in parts for group in part.split("|"))


@cache
def alike(noun: str) -> tuple[str, ...]:
    """Nouns that may stand in the place of `noun`: people and animals, or things; all of them for
    one that is not known."""
    things = tuple(group.split()[0] for group in library.THINGS.split("|"))
    if noun in things:
        return things
    living = tuple(other for other in nouns() if other not in things)
    return living if noun in living else nouns()


@cache
def kinds() -> tuple[str, ...]:
    """Things that people have a favourite of."""
    return tuple(group.split()[0] for group in library.KINDS.split("|"))


@cache
def own_questions() -> tuple[tuple[frozenset[str], str], ...]:
    """Questions of the first person with their key words: each noun in frames that take turns."""
    found = []
    for groups, frames, each in (
        (library.PEOPLE, library.FRAMES_PEOPLE, 3),
        (library.PETS, library.FRAMES_PETS, 3),
        (library.THINGS, library.FRAMES_THINGS, 2),
        (library.KINDS, library.FRAMES_KINDS, 1),
    ):
        for place, group in enumerate(groups.split("|")):
            members = group.split()
            for turn in range(each):
                frame = frames[(place * each + turn) % len(frames)]
                found.append((frozenset(members), frame.format(members[0])))
    for line in library.OWN.splitlines():
        keys, _, question = line.partition("|")
        found.append((frozenset([keys] if keys == OWN_NAME else keys.split()), question))
    return tuple(found)


@cache
def anchors() -> tuple[Anchor, ...]:
    """The library: the speaker's affairs, some of them asked indirectly, of the model and of people
    named, and the world's."""
    found = [Anchor(keys, "my", question) for keys, question in own_questions()]
    given = library.GIVEN
    for place, (keys, question) in enumerate(own_questions()):
        if place % 5 == 0:
            found.append(Anchor(keys, "your", of_another(question, "you")))
        if place % 5 == 2:
            found.append(Anchor(keys, "name", of_another(question, given[place % len(given)])))
        if place % 5 == 4 and (asked := indirect(question)):
            found.append(Anchor(keys, "my", asked))
    for question in library.WORLD.splitlines():
        found.append(Anchor(keys_of_question(question), "world", question))
    return tuple(found)
