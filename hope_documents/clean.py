"""Lines of pages as paragraphs: what a page's layout added costs training tokens and teaches it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

# A line that stands on so many pages is a header or a footer.
RECURRING_PAGES = 3
# A line of this share of the longest one was broken by the margin, not by its writer.
_FULL_LINE = 0.6


def joined(pages: Sequence[str]) -> str:
    """The pages as one text: recurring lines dropped, words and sentences that lines broke joined,
    a paragraph a line."""
    lines_of = [[line.strip() for line in page.splitlines()] for page in pages]
    recurring = _recurring(lines_of)
    kept = [[line for line in lines if _known(line) not in recurring] for lines in lines_of]
    longest = max((len(line) for lines in kept for line in lines), default=0)
    paragraphs: list[str] = []
    open_line = ""  # the last line of the paragraph that is being joined
    for lines in kept:
        for line in lines:
            if not line:
                open_line = ""
            elif open_line and _goes_on(open_line, line, longest):
                paragraphs[-1] = _together(paragraphs[-1], line)
                open_line = line
            else:
                paragraphs.append(line)
                open_line = line
    return "\n".join(paragraphs)


def _recurring(pages: Sequence[Sequence[str]]) -> set[str]:
    counts = Counter(known for lines in pages for known in {_known(line) for line in lines})
    return {line for line, pages_of in counts.items() if line and pages_of >= RECURRING_PAGES}


def _known(line: str) -> str:
    """A line as it is counted: numbers of pages differ."""
    return re.sub(r"\d+", "#", line)


def _goes_on(line: str, following: str, longest: int) -> bool:
    """Whether `following` belongs to the paragraph of `line`. A full line may end a sentence in the
    middle of a paragraph; a short one ends the paragraph then."""
    if following[0].islower():
        return True
    return len(line) >= _FULL_LINE * longest


def _together(text: str, line: str) -> str:
    if re.search(r"\w-$", text) and line[0].islower():
        return text[:-1] + line
    return f"{text} {line}"
