"""The interface behind which all heuristics of a language stand.

A text that an implementation does not understand gives no question, no value and no correction, so
a recipe learns it as plain text. Nothing here carries a value of its own.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from hope_runtime.learning.statements.english.names import Names
from hope_runtime.learning.statements.english.statement import Statement


@dataclass(frozen=True, slots=True)
class Anchor:
    """An everyday question that a memory is held at; `keys` tell what it is about, `whose` of whom
    it is asked: "my", "your", somebody's "name", or nobody's ("world")."""

    keys: frozenset[str]
    whose: str
    question: str


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question, and an answer or the beginning of one."""

    question: str
    answer: str


class StatementParser(Protocol):
    """Understands the statements of one language."""

    @property
    def library(self) -> Sequence[Anchor]:
        """Everyday questions, the same for every statement."""
        ...

    def clause_starts(self, text: str) -> list[int]:
        """Starts of the statements in `text` that can stand alone; [0] when there is one, or
        none."""
        ...

    def odd_starts(self, text: str) -> list[int]:
        """Starts of the parts of a document's text that end with a value nobody can guess, and of
        what follows them; [0] when there is none, or nothing follows."""
        ...

    def questions(self, stated: str) -> list[str]:
        """Questions that a statement answers, by its form alone; the likelier ones first."""
        ...

    def parts(self, statement: Statement) -> list[Statement]:
        """The plain statements that a user's sentence makes, with their questions; itself alone
        where it is plain. Questions that it brings are shared among them."""
        ...

    def specific(self, questions: Sequence[str]) -> list[str]:
        """Those that tell what they ask for; not "What am I?"."""
        ...

    def value(self, stated: str) -> str:
        """The words that a statement's questions ask for; "" when they cannot be told."""
        ...

    def is_odd(self, stated: str) -> bool:
        """Whether the value of a statement is one that nobody can guess: a number, a code."""
        ...

    def answered_by_words(self, statement: Statement) -> list[int]:
        """Places in `library` that the statement may answer, as far as words and topics tell."""
        ...

    def begun(self, statements: Sequence[Statement]) -> list[Exchange]:
        """Everyday questions that none of `statements` answers, and how an answer begins."""
        ...

    def near(
        self,
        statements: Sequence[Statement],
        earlier: Sequence[Statement],
        names: Names,
        rng: random.Random,
    ) -> list[str]:
        """Questions next to what was told: its own asked of others, and others of whom it is
        told. `earlier` statements answer none of them."""
        ...

    def unlike(
        self, statements: Sequence[Statement], earlier: Sequence[Statement], rng: random.Random
    ) -> list[str]:
        """Questions of `statements` about things of another kind, which none of them, nor of the
        `earlier` ones, answers."""
        ...

    def swapped(
        self,
        statement: Statement,
        others: Sequence[Statement],
        names: Names,
        rng: random.Random,
    ) -> Exchange | None:
        """One of a statement's questions and its answer, about another noun or owner; None where
        none is found. `others` are all that is told beside it."""
        ...

    def supersedes(
        self, new: Statement, old: Statement, names: Names, replies: Sequence[str]
    ) -> bool:
        """Whether `new` takes the place of `old`. `replies` are what the memory answered to the
        questions of `new` before it learnt it."""
        ...

    def plainly(self, text: str) -> str:
        """A correction as the plain statement that it comes to; any other text as it is."""
        ...

    def in_its_place(self, new: Statement, old: Statement) -> Statement:
        """The old statement with the new value, as something that the new span tells."""
        ...

    def updated(self, statement: Statement, new: Statement, old: Statement) -> Statement:
        """Another statement of the sentence of `old`, in whose place `new` comes, with the new
        value where it named the old one."""
        ...
