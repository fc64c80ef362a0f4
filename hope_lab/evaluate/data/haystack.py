"""Long text with a few sentences hidden in it, made while it is read.

Knows depths and tokens. Leaves what is hidden, and what is asked about it, to the tasks.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hope_lab.evaluate.data.filler import FillerError, line_start, spans_between
from hope_runtime.errors import InvalidRequestError
from hope_runtime.session.spans import MAX_SPAN_CHARS
from hope_runtime.tokenizer import Tokenizer

_SENTENCE_END = re.compile(r"[.!?][\"'\u201d\u2019)]*\s*$")


@dataclass(frozen=True)
class Prose:
    """Text to hide things in. One that is too short for a haystack is read again from its start."""

    text: str

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise FillerError("the haystack text is empty; give another one")

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def spans(self, seed: str) -> Iterator[str]:
        """Spans without end, from a line that the seed chooses and that may begin a sentence."""
        start = line_start(self.text, seed, len(self.text) - 1, r"\n\s*(?![a-z\s])")
        yield from spans_between(self.text, start, len(self.text))
        while True:
            yield from spans_between(self.text, 0, len(self.text), before="\n")


@dataclass(frozen=True)
class Hidden:
    """A sentence, and how deep it lies: 0 before all of the text, 1 behind it."""

    depth: float
    sentence: str

    def __post_init__(self) -> None:
        if not 0 <= self.depth <= 1:
            raise ValueError(f"depth must be between 0 and 1, not {self.depth}")


@dataclass(frozen=True)
class Haystack:
    """At most `tokens` tokens of prose and the hidden sentences, in the order of their depths.

    Iterating gives it in pieces, the same ones every time; never more than one is held.
    """

    prose: Prose
    tokenizer: Tokenizer
    tokens: int
    hidden: Sequence[Hidden]
    seed: int

    def __post_init__(self) -> None:
        if self._room <= 0:
            raise InvalidRequestError(
                f"{self.tokens} tokens are too few for the hidden sentences; give at least "
                f"{self.tokens - self._room + 1}",
                field="lengths",
            )

    @property
    def key(self) -> Any:
        """All that the text depends on but the tokenizer, as JSON."""
        hidden = [[item.depth, item.sentence] for item in self._ordered]
        return [self.prose.digest, self.tokens, hidden, self.seed]

    @property
    def _ordered(self) -> list[Hidden]:
        return sorted(self.hidden, key=lambda item: item.depth)

    @property
    def _room(self) -> int:
        """Tokens that are left for the prose."""
        taken = [len(self.tokenizer.encode(f" {item.sentence}")) for item in self.hidden]
        return self.tokens - sum(taken)

    def __iter__(self) -> Iterator[str]:
        waiting = self._ordered
        room = self._room
        read = 0
        first = True
        for text in _whole_sentences(self.prose.spans(f"haystack:{self.seed}")):
            piece = text if text[:1].isspace() else f" {text}"
            used = len(self.tokenizer.encode(piece))
            full = read + used > room
            while waiting and (full or read >= waiting[0].depth * room):
                sentence = waiting.pop(0).sentence
                yield sentence if first else f" {sentence}"
                first = False
            if full:
                return
            yield piece.lstrip() if first else piece
            first = False
            read += used


def _whole_sentences(spans: Iterator[str]) -> Iterator[str]:
    """The spans, joined where one does not end a sentence: nothing is hidden inside of one."""
    held = ""
    for span in spans:
        goes_on = not _SENTENCE_END.search(held) or span.lstrip()[:1].islower()
        if held and (not goes_on or len(held) >= MAX_SPAN_CHARS):
            yield held
            held = ""
        held += span
