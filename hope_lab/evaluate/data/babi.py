"""Reads story files in the format of the bAbI tasks (Weston et al., 2015).

Lines are `n sentence` or `n question<TAB>answer<TAB>supporting line numbers`; the numbering starts
again at 1 with each story. Some copies have `|` for the tab. Knows the format and nothing of what
is done with the stories.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hope_runtime.errors import HopeError

_LINE = re.compile(r"(\d+) (.+)")
_SEPARATOR = re.compile(r" *[\t|] *")


class StoryError(HopeError):
    """A story file cannot be used; the message names the file and the line."""


@dataclass(frozen=True, slots=True)
class Story:
    """The facts that were told up to a question, in order, the question and its answer."""

    facts: tuple[str, ...]
    question: str
    answer: str


def read_stories(path: Path, task: int) -> list[Story]:
    """All questions of a task: `path` is its file, or a directory with one file qa<task>_*.txt.

    Raises StoryError.
    """
    file = _file_of(path, task)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StoryError(f"cannot read stories from {file}: {error}") from error
    stories = list(_parse(lines, file.name))
    if not stories:
        raise StoryError(f"{file} contains no questions")
    return stories


def _file_of(path: Path, task: int) -> Path:
    if not path.is_dir():
        return path
    found = sorted(path.glob(f"qa{task}_*.txt"))
    if len(found) != 1:
        raise StoryError(
            f"{path} contains {len(found)} files qa{task}_*.txt instead of one; name the file "
            "itself"
        )
    return found[0]


def _parse(lines: list[str], name: str) -> Iterator[Story]:
    facts: list[str] = []
    last = 0
    for place, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        match = _LINE.match(line.strip())
        if match is None:
            raise StoryError(f"{name}, line {place}: expected a number, a space and a sentence")
        number, text = int(match[1]), match[2]
        if number == 1:
            facts, last = [], 0
        if number <= last:
            raise StoryError(f"{name}, line {place}: number {number} must not follow {last}")
        last = number
        question, *rest = _SEPARATOR.split(text.strip())
        if not rest:
            facts.append(text.strip())
            continue
        if not rest[0]:
            raise StoryError(f"{name}, line {place}: the question has no answer")
        yield Story(tuple(facts), question, rest[0])
