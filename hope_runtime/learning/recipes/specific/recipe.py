"""The recipe `specific_replay`: practise statements in few full steps, held to what was known.

Each statement is practised alone, as the assistant says it, and as the answer to questions, like
in learning/recipes/replay. Four things keep it where it belongs: the memory is held, by KL, at
questions next to what is told (held.py); it is asked such questions while it learns, and held where
it answers with what was told (leaks.py); first factors never read the strongest directions of
ordinary text (directions.py); and it stops as soon as all is known (loop.py). A
statement that answers the question of an earlier one takes its place: the earlier one is rehearsed
no longer, and its value is unlearnt where it stood.

Knows no language: that is behind StatementParser. What did not help: docs/log.md.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

from hope_runtime.learning.base_samples import BaseSamples
from hope_runtime.learning.level_trainer import LevelTrainer
from hope_runtime.learning.packing import Example
from hope_runtime.learning.prompt_prefixes import plain_opening
from hope_runtime.learning.recipe import (
    LevelResult,
    PhaseClock,
    Resources,
    Stretch,
    Work,
)
from hope_runtime.learning.recipes.replay.examples import ReplayWriter
from hope_runtime.learning.recipes.specific import loop
from hope_runtime.learning.recipes.specific.corrections import Corrections, Told
from hope_runtime.learning.recipes.specific.directions import FOREIGN, Directions
from hope_runtime.learning.recipes.specific.gradients import StepGradients
from hope_runtime.learning.recipes.specific.held import Holding
from hope_runtime.learning.recipes.specific.leaks import LeakFinder
from hope_runtime.learning.recipes.specific.lower_layers import LowerLayers
from hope_runtime.learning.recipes.specific.selection import Selection
from hope_runtime.learning.reference import Rehearsed
from hope_runtime.learning.spans import SpanReader, mean_by_tokens
from hope_runtime.learning.statements import StatementParser
from hope_runtime.learning.statements.english.names import Names
from hope_runtime.learning.statements.english.parser import EnglishParser
from hope_runtime.learning.statements.english.statement import Statement
from hope_runtime.session.log import Speaker
from hope_runtime.session.memory import Span

# Earlier statements whose forms a consolidation may draw, at most.
EARLIER = 24


class SpecificRecipe:
    """Practises spans of one base model's sessions; see Recipe for what its methods do."""

    def __init__(self, resources: Resources, parser: StatementParser | None = None) -> None:
        model = resources.model
        self._resources = resources
        self._model = model
        self._workers = resources.workers
        self._parser = parser or EnglishParser()
        self._reader = SpanReader(model.tokenizer)
        self._names = Names(model.tokenizer)
        self._writer = ReplayWriter(model.tokenizer, self._names)
        self._selection = Selection(resources, self._parser, self._names, self._reader)
        self._holding = Holding(resources, self._writer, self._names, self._parser)
        self._leaks = LeakFinder(resources, self._writer, self._parser, self._holding)
        self._corrections = Corrections(resources, self._writer, self._parser, self._names)
        self._directions = Directions(model, self._workers, resources.directory)
        self._gradients = StepGradients(model)
        self._foreign_read: list[Rehearsed] | None = None

    def surprises(self, trainer: LevelTrainer, spans: Sequence[Span]) -> Work[list[float]]:
        return self._reader.surprises(trainer, spans)

    def train(self, trainer: LevelTrainer, stretch: Stretch) -> Work[LevelResult]:
        clock = PhaseClock()
        config, rng = stretch.policy.specific, random.Random(stretch.seed)
        starts = self._parser.clause_starts
        spans = [part for span in stretch.spans for part in self._reader.clauses(span, starts)]
        if stretch.allowance is not None:
            spans = [part for span in spans for part in self._odd_parts(span)]
        nats = yield from self._nats(trainer, spans, stretch)
        spans = [
            replace(span, surprise_nats=found) if span.surprise_nats is None else span
            for span, found in zip(spans, nats, strict=True)
        ]
        clock.ends("surprise")
        selected = yield from self._selection.of(spans, stretch)
        statements, plain = selected.statements, selected.texts
        clock.ends("questions")
        if not statements and not plain:
            # Nothing deserves practice: it was read, and that is all that it costs.
            mean = mean_by_tokens(nats, spans)
            return LevelResult(
                tuple(spans), mean, mean, waiting=selected.waiting, seconds=clock.seconds
            )
        samples = yield from self._resources.samples(stretch.policy.seed)
        clock.ends("samples")
        kept = map(self._reader.statement, stretch.buffer)
        earlier = [part for statement in kept for part in self._parser.parts(statement)]
        corrected = yield from self._corrections.of(statements, earlier, stretch.before)
        told, earlier, superseded = corrected.told, corrected.earlier, corrected.superseded
        clock.ends("corrections")
        directions = yield from self._directions.of(
            [*self._texts(samples), *self._holding.texts()],
            config.outer_directions,
            config.inner_directions,
        )
        clock.ends("directions")
        asked = [part for each in told for part in each.statements if part.questions]
        first = int(config.frozen_share * self._model.config.n_layers)
        lower = LowerLayers(self._model, self._workers, first, stretch.before)
        held = yield from self._holding.write(
            asked, earlier, lower, rng, to_base=config.held_to_base
        )
        foreign = yield from self._foreign()
        clock.ends("references")
        directions = yield from self._directions.with_own(
            directions, held.inputs, config.own_directions
        )
        clock.ends("directions")
        rehearsed = rng.sample(earlier, min(len(earlier), EARLIER))
        material = loop.Material(
            [self._forms(each) for each in told],
            [self._writer.plain(text) for text in plain],
            [form for item in rehearsed for form in self._writer.replays(item)],
            held,
            samples.windows,
            foreign,
        )
        rate = stretch.learning_rate
        rate = rate if trainer.is_fresh else rate * config.later_rate
        limits = loop.Limits(selected.steps, selected.tokens)
        practice = loop.Practice(
            self._gradients, trainer, config, rate, material, directions, lower, rng
        )
        yield from practice.learn(limits)
        clock.ends("steps")
        leaks: dict[Example, Rehearsed] = {}
        for _ in range(config.leak_rounds if config.questions_next_to else 0):
            new = yield from self._leaks.find(asked, held, trainer, config.questions_next_to)
            clock.ends("asking")
            if not new:
                break
            leaks |= {each.example: each for each in new}
            yield from practice.settle(list(leaks.values()), limits)
            clock.ends("steps")
        after = yield from self.surprises(trainer, spans)
        clock.ends("surprise")
        cues: dict[int, dict[tuple[int, ...], None]] = {}
        for each in told:
            asked_of = cues.setdefault(each.item.span.start, {})
            for question in _questions(each):
                asked_of[tuple(self._model.tokenizer.encode(question))] = None
        found = tuple(
            replace(span, cues=tuple(cues[span.start])) if span.start in cues else span
            for span in spans
        )
        return LevelResult(
            found,
            mean_by_tokens(nats, spans),
            mean_by_tokens(after, spans),
            superseded,
            selected.waiting,
            len(statements),
            selected.document_share,
            clock.seconds,
        )

    # Preparation

    def _odd_parts(self, span: Span) -> Iterator[Span]:
        """Statements of a document that say what nobody can guess, cut from what follows."""
        if span.speaker is Speaker.USER or span.cues:
            yield span
        else:
            yield from self._reader.cut(span, self._parser.odd_starts)

    def _nats(
        self, trainer: LevelTrainer, spans: Sequence[Span], stretch: Stretch
    ) -> Work[list[float]]:
        """Nats per token of each span: what was found before, of those that are whole."""
        known = dict(zip(stretch.spans, stretch.nats or (), strict=False))
        if stretch.allowance is None and list(stretch.spans) != list(spans):
            known = {}
        unread = [span for span in spans if span not in known]
        if unread:
            found = yield from self.surprises(trainer, unread)
            known |= zip(unread, found, strict=True)
        return [known[span] for span in spans]

    # Examples

    def _forms(self, told: Told) -> loop.StatementForms:
        """Every form of a statement and of those in whose place it came, and their old values."""
        forms: dict[Example, None] = {}
        for item in told.statements:
            forms.update(dict.fromkeys(self._writer.replays(item)))
        negatives = [
            example
            for old in told.denied
            for question in old.questions
            if (example := self._denied(question, old)) is not None
        ]
        return loop.StatementForms(list(forms), negatives)

    def _denied(self, question: str, old: Statement) -> Example | None:
        """The old answer up to the first token of its value, which alone is a target."""
        value = self._parser.value(old.stated)
        example = self._writer.up_to_value(question, self._writer.answer(old), value)
        if example is None:
            return None
        return replace(example, targets=(False,) * (len(example.ids) - 1) + (True,))

    def _texts(self, samples: BaseSamples) -> list[list[Example]]:
        """Ordinary text: the base's own, and what it holds little of."""
        return [[window.example for window in samples.windows], self._foreign_texts()]

    def _foreign_texts(self) -> list[Example]:
        tokenizer = self._model.tokenizer
        opening = plain_opening(tokenizer)
        texts = ((*opening, *tokenizer.encode(text)) for text in FOREIGN)
        return [Example(ids, (True,) * len(ids)) for ids in texts]

    def _foreign(self) -> Work[list[Rehearsed]]:
        """The same texts with what the base predicts in them, read once."""
        if self._foreign_read is None:
            base = LowerLayers(self._model, self._workers, 0, None)
            self._foreign_read = yield from self._holding.read(self._foreign_texts(), base)
        return self._foreign_read


def _questions(told: Told) -> tuple[str, ...]:
    return tuple(dict.fromkeys(question for item in told.statements for question in item.questions))
