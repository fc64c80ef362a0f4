"""The recipe `replay`, the default of earlier versions: practise spans until they are known,
without harm to the rest.

Each step runs a few replays of new spans, a few of earlier ones from the session's bounded buffer,
a few contrasts (the same facts told of strangers) and now and then a window of the base's own
samples. Replays are learnt by next-token prediction; contrasts and windows hold the level to what
the frozen base predicts. The number of tokens it may run is a fixed price per learnable token, so
a consolidation's cost is known before it starts. Figures behind the constants: docs/evaluation.md;
what did not help: docs/log.md.

Differs from Eq. 71 (summed_gradient.py has that one) in what is trained on, in Adam as f, and in
many small steps at one boundary instead of a single one. Level, period and boundary are the same.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from hope_runtime.learning.level_trainer import LevelTrainer
from hope_runtime.learning.recipe import LevelResult, Resources, Stretch, Work
from hope_runtime.learning.recipes.replay.examples import ReplayWriter, may_be_voiced
from hope_runtime.learning.recipes.replay.negatives import Negatives
from hope_runtime.learning.recipes.replay.training_loop import Material, TrainingLoop
from hope_runtime.learning.spans import SpanReader, mean_by_tokens
from hope_runtime.learning.statements.english.names import Names
from hope_runtime.learning.statements.english.questions import ask
from hope_runtime.learning.statements.english.statement import Statement
from hope_runtime.learning.statements.english.word_order import questions_by_word_order
from hope_runtime.session.log import Speaker
from hope_runtime.session.memory import Span
from hope_runtime.session.policy import ReplayConfig


class ReplayRecipe:
    """Practises spans of one base model's sessions."""

    def __init__(self, resources: Resources) -> None:
        model, workers = resources.model, resources.workers
        self._resources = resources
        self._model = model
        self._workers = workers
        self._reader = SpanReader(model.tokenizer)
        self._names = Names(model.tokenizer)
        self._writer = ReplayWriter(model.tokenizer, self._names)
        self._practice = TrainingLoop(model, workers, Negatives(model, workers, self._writer))

    def train(self, trainer: LevelTrainer, stretch: Stretch) -> Work[LevelResult]:
        """Trains `trainee`, rehearsing the buffer and the base's samples; yields between steps."""
        config = stretch.policy.replay
        samples = yield from self._resources.samples(stretch.policy.seed)
        spans = [part for span in stretch.spans for part in self._reader.clauses(span)]
        before = yield from self.surprises(trainer, spans)
        spans = [
            replace(span, surprise_nats=nats) if span.surprise_nats is None else span
            for span, nats in zip(spans, before, strict=True)
        ]
        statements, plain = yield from self._prepare(spans, config)
        earlier = [self._reader.statement(span) for span in stretch.buffer]
        material = Material(
            replays=[example for item in statements for example in self._writer.replays(item)],
            plain=[self._writer.plain(text) for text in plain],
            earlier=[example for item in earlier for example in self._writer.replays(item)],
            contrasted=[*statements, *earlier],
        )
        stated = sum(len(item.span.ids) for item in statements)
        other = sum(len(span.ids) for span in spans) - stated
        budget = config.budget_tokens(stated, other)
        if statements:
            config = config.in_steps(budget, material.step_tokens(config))
        rate = stretch.learning_rate
        rate = rate if trainer.is_fresh else rate * config.later_rate
        rng = random.Random(stretch.seed)
        yield from self._practice.train(trainer, config, rate, material, samples, budget, rng)
        after = yield from self.surprises(trainer, spans)
        kept = {item.span.start: item for item in statements}
        found = tuple(
            replace(span, cues=self._encode_cues(kept[span.start])) if span.start in kept else span
            for span in spans
        )
        return LevelResult(found, mean_by_tokens(before, spans), mean_by_tokens(after, spans))

    def surprises(self, trainer: LevelTrainer, spans: Sequence[Span]) -> Work[list[float]]:
        """As `Recipe.surprises`."""
        return self._reader.surprises(trainer, spans)

    # Preparation

    def _prepare(
        self, spans: Sequence[Span], config: ReplayConfig
    ) -> Work[tuple[list[Statement], list[str]]]:
        """Statements that are practised in every form, and texts that are only read again."""
        statements, plain = [], []
        for span in spans:
            item = self._reader.statement(span)
            if not item.text:
                continue
            short = len(span.ids) <= config.statement_tokens
            if short and self._is_statement(item, config):
                statements.append(item)
            else:
                plain.append(item.text)
        new = [item for item in statements if not item.questions]
        if new and self._model.tokenizer.has_chat_template:
            texts = [item.stated for item in new]
            asked = yield from ask(self._model, self._workers, self._names, texts)
            found = {
                item.span.start: _chosen(
                    questions_by_word_order(item.stated), questions, config.questions
                )
                for item, questions in zip(new, asked, strict=True)
            }
            statements = [
                replace(item, questions=found.get(item.span.start, item.questions))
                for item in statements
            ]
        return statements, plain

    def _is_statement(self, item: Statement, config: ReplayConfig) -> bool:
        """Statements to practise in every form: what the user said, and what a document says in
        plain statements about somebody or something named, where it is news to the base."""
        if item.span.speaker is Speaker.USER:
            return may_be_voiced(item, self._names)
        if (item.span.surprise_nats or 0.0) < config.document_surprise_nats:
            return False
        about = may_be_voiced(item, self._names)
        return about and bool(item.questions or questions_by_word_order(item.text))

    def _encode_cues(self, item: Statement) -> tuple[tuple[int, ...], ...]:
        encode = self._model.tokenizer.encode
        return tuple(tuple(encode(question)) for question in item.questions)


def _chosen(by_order: Sequence[str], by_model: Sequence[str], count: int) -> tuple[str, ...]:
    """Questions of both kinds in turn: the one is certain to fit, the other is freshly phrased."""
    turns = [*by_model[:1], *by_order[:1], *by_model[1:], *by_order[1:]]
    return tuple(dict.fromkeys(turns))[:count]
