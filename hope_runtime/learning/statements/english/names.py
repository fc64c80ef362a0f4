"""Finds the names in a text, and invents others: for telling one person's facts from another's.

A name is a run of capitalised words that is not merely the beginning of a sentence. What counts
as an ordinary word is read off the model's own vocabulary, so nothing here knows a language.
"""

from __future__ import annotations

import random
import re
from functools import cached_property

from hope_runtime.learning.statements.english.persons import CALENDAR
from hope_runtime.tokenizer import Tokenizer

_RUN = re.compile(r"[A-Z]\w*(?:['\u2019](?!s\b)\w+)?(?: [A-Z]\w*)*")
# Words that begin a sentence without being vocabulary entries of their own in lower case.
_PRONOUN = {"I"}

_SYLLABIC_SHARE = 0.6
_ONSETS = [*"bcdfghjklmnprstvwyz", "", "br", "ch", "dr", "gr", "kl", "pr", "sh", "sk", "st", "th"]
_VOWELS = [*"aeioaeiouy", "ai", "ea", "ia", "ie", "ei", "oa", "ou"]
_CODAS = [*"nrlsmxkt", "th", "nd", *[""] * 4]


class Names:
    """Names of texts in one tokenizer's vocabulary."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def find(self, text: str) -> list[str]:
        """Names in the order of the text."""
        found = []
        for match in _RUN.finditer(text):
            words = match[0].split(" ")
            if words and self._is_ordinary(words[0]) and _begins_sentence(text, match.start()):
                words = words[1:]
            while words and words[0] in CALENDAR:
                words = words[1:]
            if words and not (len(words) == 1 and words[0] in _PRONOUN):
                found.append(" ".join(words))
        return found

    def invent(self, rng: random.Random, words: int = 1) -> str:
        """A name of nobody, of up to two words: pieces of the vocabulary or syllables, because a
        level that saw one kind tells the other apart by its kind. Not made to resemble any other:
        near misses keep a level from learning the name itself (docs/log.md)."""
        return " ".join(self._new(rng) for _ in range(min(words, 2)))

    def _new(self, rng: random.Random) -> str:
        if rng.random() < _SYLLABIC_SHARE:
            syllables = (
                rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)
                for _ in range(rng.choice((2, 2, 3)))
            )
            return "".join(syllables).capitalize()
        return (rng.choice(self._heads) + rng.choice(self._tails)).strip()

    def _is_ordinary(self, word: str) -> bool:
        return word.lower() in self._words

    @cached_property
    def _pieces(self) -> list[str]:
        table = (self._tokenizer.token_bytes(i) for i in range(self._tokenizer.vocab_size))
        return sorted({piece.decode("utf-8", errors="replace") for piece in table})

    @cached_property
    def _words(self) -> frozenset[str]:
        return frozenset(piece[1:] for piece in self._pieces if re.fullmatch(r" [a-z]+", piece))

    @cached_property
    def _heads(self) -> list[str]:
        return [piece for piece in self._pieces if re.fullmatch(r" [A-Z][a-z]{1,4}", piece)]

    @cached_property
    def _tails(self) -> list[str]:
        return [piece for piece in self._pieces if re.fullmatch(r"[a-z]{2,4}", piece)]


def _begins_sentence(text: str, at: int) -> bool:
    return not text[:at].rstrip("\"'(\u201c\u2018 \n") or bool(re.search(r"[.!?:]\W*$", text[:at]))
