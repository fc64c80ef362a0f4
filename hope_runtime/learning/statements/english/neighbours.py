"""Questions and exchanges next to English statements: what a memory must tell from them."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from hope_runtime.learning.statements.english import library
from hope_runtime.learning.statements.english.names import Names
from hope_runtime.learning.statements.english.persons import to_second_person
from hope_runtime.learning.statements.english.statement import Statement
from hope_runtime.learning.statements.english.words import (
    OWN_NAME,
    alike,
    anchors,
    keys_of,
    keys_of_question,
    kinds,
    nouns,
    of_another,
    own_questions,
    topics,
    words_of,
)
from hope_runtime.learning.statements.parser import Exchange

# Swapped questions that are asked for each statement, beside its own asked of others.
_SWAPPED_EACH = 4
_UNLIKE_EACH = 8
# Share of exchanges in which the owner is another, where there is a noun to swap instead.
_OTHER_OWNER = 0.5
_GIVEN = frozenset(name.lower() for name in library.GIVEN)
_NOUN = re.compile(
    r"(?:\b[Mm]y|'s|\ban?|\b[Tt]he)((?: [a-z]+){1,3}?)"
    r"(?='s\b| (?:is|are|was|were|has|named|called|of|in)\b| [A-Z])"
)


def answered_by_words(statement: Statement) -> list[int]:
    """Places in the library that share a key word or topic with the statement, asked of those of
    whom it tells."""
    keys = keys_of(statement)
    own = topics(keys)
    found = []
    for place, anchor in enumerate(anchors()):
        if statement.first_person:
            told = anchor.whose == "my" and bool(anchor.keys & own)
        else:
            # The same of others is not answered, and lies nearest: it must be held.
            named = words_of(anchor.question) & words_of(statement.stated) - library.GENERIC
            told = anchor.whose == "name" and bool(named & _GIVEN)
        # What is said of the world may stand in any statement.
        told |= anchor.whose == "world" and bool(anchor.keys) and anchor.keys <= keys
        if told:
            found.append(place)
    return found


def begun(statements: Sequence[Statement]) -> list[Exchange]:
    """Everyday questions that none of `statements` answers, and how an answer begins."""
    spoken = (keys_of(item) for item in statements if item.first_person)
    own = topics(frozenset[str]().union(*spoken))
    told = frozenset[str]().union(*(keys_of(s) for s in statements if not s.first_person))
    found = []
    for line in library.BEGUN.splitlines():
        whose, question, answer = line.split("|")
        keys = keys_of_question(question)
        if whose == "my":
            named = OWN_NAME in question or "your name" in question
            if (frozenset([OWN_NAME]) if named else topics(keys)) & own:
                continue
        if whose == "world" and keys <= told:
            continue
        found.append(Exchange(question, answer))
    return found


def near(
    statements: Sequence[Statement], earlier: Sequence[Statement], names: Names, rng: random.Random
) -> list[str]:
    """Questions next to what was told that `earlier` statements do not answer either, without
    repetition."""
    found: dict[str, None] = {}
    told_of = [*statements, *earlier]
    taken = frozenset[str]().union(*map(keys_of, told_of))
    named: dict[str, frozenset[str]] = {}
    for item in statements:
        if item.first_person:
            for question in item.questions:
                for whose in ("you", _somebody(taken, rng), _own(taken, rng)):
                    found[of_another(question, whose)] = None
                for name in _names_asked(item, question, names):
                    found[question.replace(name, _somebody(taken, rng))] = None
        else:
            for name in names.find(item.stated)[:1]:
                named[name] = named.get(name, frozenset()) | topics(keys_of(item))
                for question in item.questions:
                    if f"{name}'s" in question:
                        found[question.replace(f"{name}'s", "my")] = None
                    elif name in question:
                        found[question.replace(name, _somebody(taken, rng))] = None
        for _ in range(_SWAPPED_EACH):
            if pair := swapped(item, told_of, names, rng):
                found[pair.question] = None
    for item in earlier:
        for name in names.find(item.stated)[:1]:
            if name in named:
                named[name] |= topics(keys_of(item))
    for name, keys in named.items():
        free = [question for words, question in own_questions() if not words & keys]
        for question in rng.sample(free, min(len(free), _SWAPPED_EACH)):
            found[of_another(question, name)] = None
    told = {question for item in told_of for question in item.questions}
    return [question for question in found if question not in told]


def unlike(
    statements: Sequence[Statement], earlier: Sequence[Statement], rng: random.Random
) -> list[str]:
    """Questions of statements that ask for the name or owner of something, about something of any
    kind of which no statement, earlier ones included, tells."""
    taken = frozenset[str]().union(*map(keys_of, (*statements, *earlier)))
    free = [noun for noun in nouns() if noun not in taken]
    found: dict[str, None] = {}
    for item in statements:
        pairs = [(q, noun) for q in item.questions if (noun := _noun(item.stated, q))]
        for _ in range(_UNLIKE_EACH if pairs and free else 0):
            question, noun = rng.choice(pairs)
            found[re.sub(rf"\b{noun}\b", rng.choice(free), question)] = None
    return list(found)


def swapped(
    statement: Statement, others: Sequence[Statement], names: Names, rng: random.Random
) -> Exchange | None:
    """One of a statement's questions and its answer, with another noun or another owner."""
    if not statement.questions:
        return None
    told = statement.stated
    if statement.first_person:
        told = to_second_person(told)
    pairs = [(q, noun) for q in statement.questions if (noun := _noun(statement.stated, q))]
    taken = frozenset[str]().union(*map(keys_of, others))
    if not pairs or rng.random() < _OTHER_OWNER:
        question = rng.choice(statement.questions)
        if statement.first_person and not _names_asked(statement, question, names):
            found = _of_somebody(statement, question, taken, rng)
            # Words that cannot be asked of another ask the same.
            return None if found.question == question else found
        return _of_a_namesake(statement, question, taken, names, rng)
    question, noun = rng.choice(pairs)
    pool = kinds() if f"favourite {noun}" in statement.stated else alike(noun)
    free = [other for other in pool if other != noun and other not in taken]
    if not free:
        return None
    other = rng.choice(free)
    return Exchange(*(re.sub(rf"\b{noun}\b", other, text) for text in (question, told)))


def _noun(statement: str, question: str) -> str | None:
    """The noun whose name or owner is asked for in both, if there is one in lower case."""
    for match in _NOUN.finditer(statement):
        noun = match[1].split()[-1]
        if noun not in ("name", "favourite") and re.search(rf"\b{noun}\b", question):
            return noun
    return None


def _names_asked(statement: Statement, question: str, names: Names) -> list[str]:
    """The statement's name that one of its questions asks about, if it does."""
    return [name for name in names.find(statement.stated)[:1] if name in question]


def _of_a_namesake(
    statement: Statement, question: str, taken: frozenset[str], names: Names, rng: random.Random
) -> Exchange | None:
    """Neighbours of a statement about somebody with a name: the same of a common name."""
    found = _names_asked(statement, question, names)
    if not found:
        return None
    told = to_second_person(statement.stated) if statement.first_person else statement.stated
    whose = _somebody(taken, rng)
    return Exchange(*(text.replace(found[0], whose) for text in (question, told)))


def _of_somebody(
    statement: Statement, question: str, taken: frozenset[str], rng: random.Random
) -> Exchange:
    """Neighbours of a first-person statement: the same of the model, of somebody named, or of
    one of the speaker's own people and animals."""
    turn = rng.randrange(3)
    if turn == 0:
        return Exchange(of_another(question, "you"), statement.stated)
    whose = _somebody(taken, rng) if turn == 1 else _own(taken, rng)
    told = statement.stated
    for pattern, verb in (("(?:['\u2019]m| am)", "is"), ("(?:['\u2019]ve| have)", "has"),
                          (" was", "was")):  # fmt: skip
        told = re.sub(rf"\bI{pattern}\b", f"\0 {verb}", told)
    told = re.sub(r"\bI ([a-z]+)\b", lambda found: f"\0 {_third(found[1])}", told)
    told = re.sub(r"\b[Mm]y\b", "\0's", told).replace("\0", whose)
    if turn == 2:
        told = to_second_person(told)
    return Exchange(of_another(question, whose), told[:1].upper() + told[1:])


def _own(taken: frozenset[str], rng: random.Random) -> str:
    """One of the speaker's people or animals that none of the statements is about."""
    free = [noun for noun in alike("sister") if noun not in taken]
    return f"my {rng.choice(free or ['sister'])}"


def _somebody(taken: frozenset[str], rng: random.Random) -> str:
    """A common name that none of the statements holds."""
    free = [name for name in library.GIVEN if name.lower() not in taken]
    return rng.choice(free or library.GIVEN)


def _third(verb: str) -> str:
    if verb.endswith(("ed", "s")) or verb in ("will", "can", "went", "never", "always", "moved"):
        return verb
    return verb + ("es" if verb.endswith(("ch", "sh", "ss", "x", "o")) else "s")
