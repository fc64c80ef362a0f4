"""Invented languages: a lexicon, a morphology and a word order, all from a seed.

No model can have met one, so whatever is known of it was learnt here. Sentences are pairs: a small
regular English and the language. Knows how they are made, and not how they are taught.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from hope_lab.evaluate.data.items import invented_names


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NOUNS = _words(
    "farmer doctor sailor singer teacher baker painter soldier dog horse goat bird "
    "boat table garden letter basket window"
)
ADJECTIVES = _words("old young small tall quiet clever tired happy")
# Regular verbs, whose past ends in -ed.
VERBS = _words("follow watch help visit paint clean push count wash join")
ORDERS = tuple("".join(order) for order in itertools.permutations("SVO"))


@dataclass(frozen=True, slots=True)
class Phrase:
    """Somebody or something: noun, number, and perhaps an adjective."""

    noun: str
    plural: bool
    adjective: str | None = None


@dataclass(frozen=True, slots=True)
class Meaning:
    """An agent, an action, its time and a patient."""

    subject: Phrase
    verb: str
    past: bool
    object: Phrase

    @property
    def words(self) -> set[str]:
        """The words of the lexicon that it needs."""
        found = {self.subject.noun, self.verb, self.object.noun}
        return found | {p.adjective for p in (self.subject, self.object) if p.adjective}


@dataclass(frozen=True, slots=True)
class Language:
    """`affixes` are those of plural, object and past; a dash shows on which side the stem is."""

    name: str
    lexicon: dict[str, str]
    order: str
    adjective_first: bool
    plural: str
    object_case: str
    past: str

    def say(self, meaning: Meaning) -> str:
        """The sentence, in lower case and without a full stop."""
        verb = self.lexicon[meaning.verb]
        parts = {
            "S": self._phrase(meaning.subject, is_object=False),
            "V": affixed(verb, self.past) if meaning.past else verb,
            "O": self._phrase(meaning.object, is_object=True),
        }
        return " ".join(parts[part] for part in self.order)

    def _phrase(self, phrase: Phrase, *, is_object: bool) -> str:
        noun = self.lexicon[phrase.noun]
        if phrase.plural:
            noun = affixed(noun, self.plural)
        if is_object:
            noun = affixed(noun, self.object_case)
        if phrase.adjective is None:
            return noun
        pair = (self.lexicon[phrase.adjective], noun)
        return " ".join(pair if self.adjective_first else pair[::-1])


def make_language(seed: int, number: int) -> Language:
    """The language of that number; another seed or number, another language."""
    rng = random.Random(f"language:{seed}:{number}")
    names = _short_words(rng)
    lexicon = {word: next(names) for word in (*NOUNS, *ADJECTIVES, *VERBS)}
    forms = rng.sample(("ka", "mi", "zu", "ren", "to", "shi", "ul", "bo", "ve", "na"), 3)
    plural, object_case, past = (f"-{form}" if rng.random() < 0.5 else f"{form}-" for form in forms)
    return Language(
        name=next(names).capitalize() + "ic",
        lexicon=lexicon,
        order=rng.choice(ORDERS),
        adjective_first=rng.random() < 0.5,
        plural=plural,
        object_case=object_case,
        past=past,
    )


def english(meaning: Meaning) -> str:
    """The sentence in English, in lower case and without a full stop."""
    verb = f"{meaning.verb}ed" if meaning.past else f"will {meaning.verb}"
    return f"{_english(meaning.subject)} {verb} {_english(meaning.object)}"


def _english(phrase: Phrase) -> str:
    noun = f"{phrase.noun}s" if phrase.plural else phrase.noun
    return " ".join(word for word in ("the", phrase.adjective, noun) if word)


def sentences(
    seed: int, number: int, taught: int, tested: int
) -> tuple[list[Meaning], list[Meaning]]:
    """Sentences to teach and to test. No sentence is in both, and none twice; every word that a
    tested one needs was taught.

    The words are the same in both, so what is tested is morphology, order and lexicon.
    """
    rng = random.Random(f"sentences:{seed}:{number}")
    nouns, adjectives, verbs = (_cycle(group, rng) for group in (NOUNS, ADJECTIVES, VERBS))
    lessons: dict[Meaning, None] = {}
    while len(lessons) < taught:
        subject = Phrase(next(nouns), rng.random() < 0.5, next(adjectives))
        with_adjective = next(adjectives) if rng.random() < 0.3 else None
        thing = Phrase(next(nouns), rng.random() < 0.5, with_adjective)
        if subject.noun != thing.noun:
            lessons[Meaning(subject, next(verbs), rng.random() < 0.5, thing)] = None
    known: set[str] = set().union(*(meaning.words for meaning in lessons))
    tests: dict[Meaning, None] = {}
    while len(tests) < tested:
        first, second = rng.sample([word for word in NOUNS if word in known], 2)
        adjective = rng.choice([word for word in ADJECTIVES if word in known])
        verb = rng.choice([word for word in VERBS if word in known])
        subject = Phrase(first, rng.random() < 0.5, adjective)
        meaning = Meaning(subject, verb, rng.random() < 0.5, Phrase(second, rng.random() < 0.5))
        if meaning not in lessons:
            tests[meaning] = None
    return list(lessons), list(tests)


def affixed(stem: str, affix: str) -> str:
    """`-x` behind the stem, `x-` before it."""
    return stem + affix[1:] if affix.startswith("-") else affix[:-1] + stem


def _short_words(rng: random.Random) -> Iterator[str]:
    return (word.lower() for name in invented_names(rng) for word in name.split())


def _cycle(words: tuple[str, ...], rng: random.Random) -> Iterator[str]:
    """All words again and again, shuffled anew each time."""
    while True:
        yield from rng.sample(words, len(words))
