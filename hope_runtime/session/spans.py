"""Cuts text into spans: sentence-like pieces that are tokenised, replayed and counted as one.

A cut depends on the text before it and at most `MAX_SPAN_CHARS` after it, never on how the text
arrived, so any split of a stream gives the same spans and with them the same tokens. Cuts fall
where whitespace begins; the whitespace opens the next span, which is where byte-pair
pre-tokenisers begin a word, so joining the spans' tokens gives the tokens of the whole.

Knows nothing of tokens or of models.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass

from hope_runtime.errors import InvalidRequestError

MAX_SPAN_CHARS = 1024
LONG_SPAN_CHARS = 512
# A line at least this long that ends in a single newline is taken for a wrapped paragraph.
WRAPPED_LINE_CHARS = 50

_WORD = re.compile(r"\S+")
_SENTENCE_END = re.compile(r"[.!?\u2026\u3002\uff01\uff1f][\"'\u201d\u2019)\]]*$")
# Where a full stop belongs to the word: titles, initials, "U.S.", "e.g.".
_ABBREVIATION = re.compile(
    r"^[\"'(\u201c\u2018]*(?:(?:Mr|Mrs|Ms|Dr|St|Jr|Sr|Prof|No|vs|cf)|[A-Z]|(?:[A-Za-z]\.)+[A-Za-z])\.$"
)


def split_spans(text: str) -> list[str]:
    """All spans of a finished text; joined, they are the text."""
    return list(iter_spans(text))


def iter_spans(text: str) -> Iterator[str]:
    """The spans of `split_spans`, each cut when it is asked for."""
    start = 0
    while (end := _next_cut(text, start)) is not None:
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


@dataclass(slots=True)
class SpanReader:
    """Cuts a byte stream that arrives in pieces.

    `tail` holds the bytes that no span has yet; it never exceeds 4 * MAX_SPAN_CHARS bytes plus
    an unfinished character, and a reader made from it goes on as if never stopped.
    """

    tail: bytes = b""
    # Offset in the document of the first byte of the tail.
    offset: int = 0

    def feed(self, piece: bytes, *, final: bool = False) -> list[str]:
        """Spans completed by `piece`. With `final` the rest comes too and the tail is empty.

        Raises InvalidRequestError when the bytes are not UTF-8; the reader is then unchanged.
        """
        data = self.tail + piece
        try:
            text, used = codecs.utf_8_decode(data, "strict", final)
        except UnicodeDecodeError as error:
            raise InvalidRequestError(
                f"the document is not valid UTF-8: byte {self.offset + error.start} cannot be "
                "decoded; convert it to UTF-8 first",
                field="chunk",
            ) from None
        spans, rest = _cut(text)
        if final and rest:
            spans, rest = [*spans, rest], ""
        self.tail = rest.encode() + data[used:]
        self.offset += len(data) - len(self.tail)
        return spans


def _cut(text: str) -> tuple[list[str], str]:
    """Spans that are certain whatever follows, and the undecided rest."""
    spans = []
    start = 0
    while (end := _next_cut(text, start)) is not None:
        spans.append(text[start:end])
        start = end
    return spans, text[start:]


def _next_cut(text: str, start: int) -> int | None:
    limit = start + MAX_SPAN_CHARS
    end = -1  # end of the previous word, while the next one is looked for
    line_start = start
    for word in _WORD.finditer(text, start, limit):
        if end >= 0:
            gap = text[end : word.start()]
            if _ends_span(text, start, line_start, end, gap, text[word.start()]):
                return end
            if "\n" in gap:
                line_start = word.start()
        end = word.end()
    # Without a natural end in reach, the span is as long as it may be. Whether that is so shows
    # only once all of the reach has arrived.
    return limit if len(text) >= limit else None


def _ends_span(text: str, start: int, line: int, end: int, gap: str, following: str) -> bool:
    newlines = gap.count("\n")
    if newlines > 1 or (newlines == 1 and end - line < WRAPPED_LINE_CHARS):
        return True
    if end - start >= LONG_SPAN_CHARS:
        return True
    word_start = max(text.rfind(" ", start, end), text.rfind("\n", start, end), start - 1) + 1
    word = text[word_start:end]
    if not _SENTENCE_END.search(word) or _ABBREVIATION.match(word):
        return False
    return not following.islower()
