"""Retrieval by words: Okapi BM25 over passages of what was read.

The baseline that keeps the text itself and learns nothing. Knows words and passages, and no
model; how passages reach a prompt is in contenders.py.
"""

from __future__ import annotations

import heapq
import math
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

# Robertson and Zaragoza (2009) give 1.2 to 2 and 0.5 to 0.8 as what works on most collections.
K1, B = 1.2, 0.75
# Whole sentences are joined until a passage has so many words.
PASSAGE_WORDS = 40
_WORD = re.compile(r"\w+")


class BM25Index:
    """Passages and their words. Grows by `add`; memory is that of the text and of its postings."""

    def __init__(self) -> None:
        self._passages: list[str] = []
        self._lengths: list[int] = []
        self._words = 0
        # Of a word: the passages that have it, ascending, each followed by how often it does. As
        # packed numbers: ten million words of text would be gigabytes of Python objects.
        self._postings: dict[str, array[int]] = defaultdict(lambda: array("I"))

    def __len__(self) -> int:
        return len(self._passages)

    def add(self, passage: str) -> None:
        """Adds a passage, of any length, behind the others."""
        found = words(passage)
        number = len(self._passages)
        self._passages.append(passage)
        self._lengths.append(len(found))
        self._words += len(found)
        for word, count in Counter(found).items():
            self._postings[word].extend((number, count))

    def scores(self, query: str) -> dict[int, float]:
        """Scores of the passages that share a word with the query, by number from 0.

        Robertson and Zaragoza (2009), Eq. 3.15, a word that is asked for twice counting twice,
        with the inverse document frequency ln(1 + (N - n + 0.5) / (n + 0.5)), which is never
        negative.
        """
        found: dict[int, float] = defaultdict(float)
        size = len(self._passages)
        mean = self._words / size if size else 0.0
        for word in words(query):
            postings = self._postings.get(word, array("I"))
            having = len(postings) // 2
            rarity = math.log(1 + (size - having + 0.5) / (having + 0.5))
            for number, count in zip(postings[::2], postings[1::2], strict=True):
                norm = K1 * (1 - B + B * self._lengths[number] / mean)
                found[number] += rarity * count * (K1 + 1) / (count + norm)
        return dict(found)

    def top(self, query: str, count: int) -> list[str]:
        """The `count` best passages in the order in which they were added; of equals the first."""
        scores = self.scores(query)
        best = heapq.nsmallest(count, scores, key=lambda number: (-scores[number], number))
        return [self._passages[number] for number in sorted(best)]


def words(text: str) -> list[str]:
    """Runs of letters and digits in lower case."""
    return _WORD.findall(text.lower())


def passages(spans: Iterable[str]) -> Iterator[str]:
    """Consecutive whole spans as passages of at least PASSAGE_WORDS words, but for the last."""
    held: list[str] = []
    count = 0
    for span in spans:
        held.append(span)
        count += len(span.split())
        if count >= PASSAGE_WORDS:
            yield "".join(held).strip()
            held, count = [], 0
    if rest := "".join(held).strip():
        yield rest
