"""The course that every contender takes: lessons and questions, in order.

A task builds courses from its options and a seed, and judges the replies; who learns, how and at
what price is in contenders.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hope_lab.evaluate.data.haystack import Haystack

Told = Literal["chat", "document"]


@dataclass(frozen=True, slots=True)
class Asked:
    """One question. `values` are what a reply should hold, `others` what it must not.

    `about` names what it belongs to, where a task asks about several things.
    """

    text: str
    values: tuple[str, ...]
    others: tuple[str, ...] = ()
    about: str = ""


@dataclass(frozen=True, slots=True)
class Lesson:
    """A conversation in which something is told, and what is asked once it has ended.

    `text` are messages, told one by one in chat or together as a document; or a haystack, which is
    always a document.
    """

    name: str
    text: tuple[str, ...] | Haystack
    asked: tuple[Asked, ...]
    told: Told = "document"

    @property
    def messages(self) -> tuple[str, ...] | None:
        """Chat message that teaches the lesson; None for a document."""
        return self.text if self.told == "chat" and isinstance(self.text, tuple) else None

    @property
    def parts(self) -> Iterable[str]:
        """The text as it arrives; it can be iterated again."""
        if isinstance(self.text, Haystack):
            return self.text
        return tuple(f"{message}\n" for message in self.text)

    @property
    def key(self) -> Any:
        """All that a contender sees of it, as JSON."""
        text = self.text.key if isinstance(self.text, Haystack) else list(self.text)
        return [self.told, text, [asked.text for asked in self.asked]]


@dataclass(frozen=True, slots=True)
class Course:
    """Lessons for one memory. `labels` say where its figures belong, the seed among them.

    Replies have at most `new_tokens` tokens.
    """

    labels: Mapping[str, Any]
    lessons: tuple[Lesson, ...]
    new_tokens: int

    @property
    def title(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.labels.items())

    @property
    def key(self) -> Any:
        """All that replies depend on besides who gives them, as JSON."""
        return [[lesson.key for lesson in self.lessons], self.new_tokens]
