"""Statement: a span as text, in the form that is practised."""

from __future__ import annotations

from dataclasses import dataclass

from hope_runtime.learning.statements.english.clauses import as_introduction
from hope_runtime.learning.statements.english.persons import is_first_person
from hope_runtime.session.log import Speaker
from hope_runtime.session.memory import Span


@dataclass(frozen=True, slots=True)
class Statement:
    """A span as text, with the questions that it answers."""

    span: Span
    text: str
    questions: tuple[str, ...] = ()

    @property
    def first_person(self) -> bool:
        return is_first_person(self.stated)

    @property
    def stated(self) -> str:
        """The text, or its normalised form for an introduction ("I'm Ada" -> "My name is Ada")."""
        return as_introduction(self.text) if self.span.speaker is Speaker.USER else self.text
