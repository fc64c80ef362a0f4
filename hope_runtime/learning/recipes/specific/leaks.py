"""Leaks: told values in a memory's answers to questions that nothing answers.

What is written beforehand to hold a memory cannot foresee how it will begin such an answer ("The
car is a" where contrasts said "Tom's car is a"). So it is asked, while it learns, what lies next to
what was told, and held along the answers that it gave, up to where a told value begins.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hope_runtime.learning.level_trainer import LevelTrainer
from hope_runtime.learning.packing import Example
from hope_runtime.learning.recipe import Resources, Work
from hope_runtime.learning.recipes.replay.examples import ReplayWriter
from hope_runtime.learning.recipes.specific.answers import answers
from hope_runtime.learning.recipes.specific.held import Held, Holding
from hope_runtime.learning.reference import Rehearsed
from hope_runtime.learning.statements import StatementParser
from hope_runtime.learning.statements.english.statement import Statement

# Tokens of an answer in which a told value would stand.
REPLY_TOKENS = 14
# Questions that are answered together: a pass over few rows costs little less than over many.
ROWS = 64


class LeakFinder:
    """Asks a memory that is being trained what lies next to what it was told."""

    def __init__(
        self, resources: Resources, writer: ReplayWriter, parser: StatementParser, holding: Holding
    ) -> None:
        self._resources = resources
        self._writer = writer
        self._parser = parser
        self._holding = holding

    def find(
        self, statements: Sequence[Statement], held: Held, trainer: LevelTrainer, count: int
    ) -> Work[list[Rehearsed]]:
        """Leaking answers to the first `count` questions of `held`, each up to the first token of
        the value, with what is to be predicted there. Yields on the way."""
        asked = held.questions[:count]
        if not asked:
            return []
        with torch.no_grad():
            memory = trainer.combined()
        replies = answers(
            self._resources, self._writer, asked, memory, max_tokens=REPLY_TOKENS, rows=ROWS
        )
        yield None
        values = [self._parser.value(item.stated) for item in statements]
        found: dict[Example, None] = {}
        for question, reply in zip(asked, replies, strict=True):
            for value in filter(None, values):
                # A value that the base would give as well may be said: then it is what is held.
                if example := self._writer.up_to_value(question, reply, value):
                    found[example] = None
        return (yield from self._holding.read(list(found), held.reference))
