"""Corrections: which earlier statements the new ones of a stretch take the place of.

The parser tells by words, and by what the memory answers to the new statement's questions; what
else the sentence of a superseded statement told still holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hope_runtime.layers.lora import LoraAdapter
from hope_runtime.learning.recipe import Resources, Superseded, Work
from hope_runtime.learning.recipes.replay.examples import ReplayWriter
from hope_runtime.learning.recipes.specific.answers import answers
from hope_runtime.learning.statements import StatementParser
from hope_runtime.learning.statements.english.names import Names
from hope_runtime.learning.statements.english.statement import Statement

# Tokens of a reply in which an old value would stand.
REPLY_TOKENS = 12


@dataclass(frozen=True, slots=True)
class Told:
    """A statement to practise, with earlier ones that have its value now, what else their sentences
    told, and answers that no longer hold."""

    item: Statement
    corrected: tuple[Statement, ...] = ()
    left: tuple[Statement, ...] = ()
    denied: tuple[Statement, ...] = ()

    @property
    def statements(self) -> tuple[Statement, ...]:
        """All that is practised."""
        return (self.item, *self.corrected, *self.left)


@dataclass(frozen=True, slots=True)
class Corrected:
    """Statements to practise, earlier ones that still hold, and which superseded which."""

    told: list[Told]
    earlier: list[Statement]
    superseded: tuple[Superseded, ...]


class Corrections:
    """Finds the corrections among statements of one base model's sessions."""

    def __init__(
        self, resources: Resources, writer: ReplayWriter, parser: StatementParser, names: Names
    ) -> None:
        self._resources = resources
        self._writer = writer
        self._parser = parser
        self._names = names

    def of(
        self, statements: Sequence[Statement], earlier: list[Statement], before: LoraAdapter | None
    ) -> Work[Corrected]:
        """The statements with those that they supersede in their place; `before` is the memory as
        it was. Yields after the memory was asked."""
        told: list[Told] = []
        superseded: dict[Superseded, None] = {}
        for new in statements:
            start = new.span.start
            known = (*earlier, *(item for each in told for item in (each.item, *each.left)))
            candidates = [old for old in known if old.span.start != start]
            gone = yield from self._superseded(new, candidates, before)
            if not gone:
                told.append(Told(new))
                continue
            starts = {old.span.start for old in gone}
            superseded.update((Superseded(start, old), None) for old in sorted(starts))
            # What else an earlier sentence told still holds; its span is dropped, so it is told by
            # the new one from now on.
            left = [old for old in candidates if old.span.start in starts and old not in gone]
            earlier = [item for item in earlier if item.span.start not in starts]
            told = [
                replace(each, left=tuple(old for old in each.left if old.span.start not in starts))
                for each in told
                if each.item.span.start not in starts
            ]
            corrected = tuple(self._parser.in_its_place(new, old) for old in gone)
            left = [self._parser.updated(old, new, gone[0]) for old in left]
            # A later span may be known by what it comes to alone.
            new = replace(new, text=self._parser.plainly(new.text))
            if gone[0].first_person and not new.first_person:
                # "Mirja" is who "my daughter Mirja" is, and an answer begins with "Your".
                new = replace(corrected[0], questions=new.questions)
            told.append(Told(new, corrected, tuple(left), tuple(gone)))
        return Corrected(told, earlier, tuple(superseded))

    def _superseded(
        self, new: Statement, candidates: Sequence[Statement], before: LoraAdapter | None
    ) -> Work[list[Statement]]:
        """Those in whose place `new` comes. The memory is asked only where words allow it."""
        close = [
            old
            for old in candidates
            if self._parser.supersedes(new, old, self._names, (self._parser.value(old.stated),))
        ]
        if not close:
            return []
        questions = self._parser.specific(new.questions)
        replies = answers(self._resources, self._writer, questions, before, max_tokens=REPLY_TOKENS)
        yield None
        return [old for old in close if self._parser.supersedes(new, old, self._names, replies)]
