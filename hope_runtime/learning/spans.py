"""Spans as the texts that they were, and how much each surprises a level."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from hope_runtime.learning.level_trainer import LevelTrainer
from hope_runtime.learning.packing import ROW_TOKENS, Example, in_batches, pack
from hope_runtime.learning.prompt_prefixes import before_text
from hope_runtime.learning.recipe import Work
from hope_runtime.learning.statements.english.clauses import clause_starts, standing_alone
from hope_runtime.learning.statements.english.statement import Statement
from hope_runtime.session.log import Speaker
from hope_runtime.session.memory import Span
from hope_runtime.tokenizer import Tokenizer


class SpanReader:
    """Reads spans of one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def statement(self, span: Span) -> Statement:
        """A span as text; of what a user said, as a sentence of its own."""
        decode = self._tokenizer.decode
        text = decode(span.ids).strip()
        if span.speaker is Speaker.USER:
            text = standing_alone(text)
        return Statement(span, text, tuple(decode(cue) for cue in span.cues))

    def clauses(
        self, span: Span, starts_of: Callable[[str], list[int]] = clause_starts
    ) -> Iterator[Span]:
        """The statements of what a user said, as spans of their own; anything else as it is.

        `starts_of` tells where statements begin in a text.
        """
        if span.speaker is not Speaker.USER or span.cues:
            yield span
            return
        yield from self.cut(span, starts_of)

    def cut(self, span: Span, starts_of: Callable[[str], list[int]]) -> Iterator[Span]:
        """Parts of a span, as spans of their own, that begin where `starts_of` its text says."""
        decode = self._tokenizer.decode
        starts = starts_of(decode(span.ids))
        if len(starts) == 1:
            yield span
            return
        # A clause begins where a token does, or it is none.
        cuts = [n for n in range(1, len(span.ids)) if len(decode(span.ids[:n])) in starts[1:]]
        for begin, end in pairwise((0, *cuts, len(span.ids))):
            yield replace(span, ids=span.ids[begin:end], start=span.start + begin)

    def surprises(self, trainer: LevelTrainer, spans: Sequence[Span]) -> Work[list[float]]:
        """Mean nats per token of each span's text alone, under the trainee as it is."""
        examples = [self._plain(span) for span in spans]
        batches = in_batches(examples)
        packs = [pack(batch, row_tokens=ROW_TOKENS) for batch in batches]
        found = yield from trainer.surprises(packs)
        nats: list[float] = []
        for batch, packed, losses_N in zip(batches, packs, found, strict=True):
            for owner in range(len(batch)):
                mine = losses_N[packed.owners_N == owner]
                nats.append(float(mine.mean()) if len(mine) else 0.0)
        return nats

    def _plain(self, span: Span) -> Example:
        begin = before_text(self._tokenizer)
        ids = tuple(self._tokenizer.encode(self.statement(span).text))
        return Example((*begin, *ids), (False,) * len(begin) + (True,) * len(ids))


def mean_by_tokens(values: Sequence[float], spans: Sequence[Span]) -> float:
    """The mean of what was found of each span, by its tokens; 0 for none."""
    weights = [len(span.ids) for span in spans]
    total = sum(weights)
    return sum(v * w for v, w in zip(values, weights, strict=True)) / total if total else 0.0
