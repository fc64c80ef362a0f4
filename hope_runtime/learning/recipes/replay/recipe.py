"""The default recipe: practise a stretch's spans until they are known, without harm to the rest.

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
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from hope_runtime.learning.base_samples import BaseSamples
from hope_runtime.learning.level_trainer import LevelTrainer
from hope_runtime.learning.packing import pack
from hope_runtime.learning.recipes.replay.english.clauses import clause_starts, standing_alone
from hope_runtime.learning.recipes.replay.english.names import Names
from hope_runtime.learning.recipes.replay.english.questions import ask
from hope_runtime.learning.recipes.replay.english.word_order import questions_by_word_order
from hope_runtime.learning.recipes.replay.examples import ReplayWriter, Statement, may_be_voiced
from hope_runtime.learning.recipes.replay.negatives import Negatives
from hope_runtime.learning.recipes.replay.training_loop import ROW_TOKENS, Material, TrainingLoop
from hope_runtime.learning.workers import Workers
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.log import Speaker
from hope_runtime.session.memory import Span
from hope_runtime.session.policy import ReplayConfig

# Examples that are read together where nothing is trained.
BATCH = 16


@dataclass(frozen=True, slots=True)
class LevelResult:
    """What a consolidation did: the spans with what was found out about them, and the mean nats
    per token of their texts before and after."""

    spans: tuple[Span, ...]
    before_nats: float
    after_nats: float


class ReplayRecipe:
    """Practises spans of one base model's sessions."""

    def __init__(self, model: BaseModel, workers: Workers) -> None:
        self._model = model
        self._workers = workers
        self._names = Names(model.tokenizer)
        self._writer = ReplayWriter(model.tokenizer, self._names)
        self._practice = TrainingLoop(model, workers, Negatives(model, workers, self._writer))

    def practise(
        self,
        trainer: LevelTrainer,
        config: ReplayConfig,
        learning_rate: float,
        spans: Sequence[Span],
        buffer: Sequence[Span],
        samples: BaseSamples,
        seed: int,
    ) -> Generator[None, None, LevelResult]:
        """Trains `trainee` on `spans`, rehearsing `buffer` and `samples`; yields between steps."""
        spans = [part for span in spans for part in self._clauses(span)]
        before = yield from self.surprises(trainer, spans)
        spans = tuple(
            replace(span, surprise_nats=nats) if span.surprise_nats is None else span
            for span, nats in zip(spans, before, strict=True)
        )
        statements, plain = yield from self._prepare(spans, config)
        earlier = [self._restore(span) for span in buffer]
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
        rate = learning_rate if trainer.is_fresh else learning_rate * config.later_rate
        rng = random.Random(seed)
        yield from self._practice.train(trainer, config, rate, material, samples, budget, rng)
        after = yield from self.surprises(trainer, spans)
        kept = {item.span.start: item for item in statements}
        found = tuple(
            replace(span, cues=self._encode_cues(kept[span.start])) if span.start in kept else span
            for span in spans
        )
        weights = [len(span.ids) for span in spans]
        return LevelResult(found, _mean(before, weights), _mean(after, weights))

    # Preparation

    def _prepare(
        self, spans: Sequence[Span], config: ReplayConfig
    ) -> Generator[None, None, tuple[list[Statement], list[str]]]:
        """Statements that are practised in every form, and texts that are only read again."""
        statements, plain = [], []
        for span in spans:
            item = self._restore(span)
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
        """What is practised in every form: what the user said, and what a document says in plain
        statements about somebody or something named, where it is news to the base."""
        if item.span.speaker is Speaker.USER:
            return may_be_voiced(item, self._names)
        if (item.span.surprise_nats or 0.0) < config.document_surprise_nats:
            return False
        about = may_be_voiced(item, self._names)
        return about and bool(item.questions or questions_by_word_order(item.text))

    def _clauses(self, span: Span) -> Iterator[Span]:
        """The statements of what a user said, as spans of their own; anything else as it is."""
        if span.speaker is not Speaker.USER or span.cues:
            yield span
            return
        decode = self._model.tokenizer.decode
        starts = clause_starts(decode(span.ids))
        # A clause begins where a token does, or it is none.
        cuts = [n for n in range(1, len(span.ids)) if len(decode(span.ids[:n])) in starts[1:]]
        for begin, end in pairwise((0, *cuts, len(span.ids))):
            yield replace(span, ids=span.ids[begin:end], start=span.start + begin)

    def _restore(self, span: Span) -> Statement:
        decode = self._model.tokenizer.decode
        text = decode(span.ids).strip()
        if span.speaker is Speaker.USER:
            text = standing_alone(text)
        return Statement(span, text, tuple(decode(cue) for cue in span.cues))

    def _encode_cues(self, item: Statement) -> tuple[tuple[int, ...], ...]:
        encode = self._model.tokenizer.encode
        return tuple(tuple(encode(question)) for question in item.questions)

    def surprises(
        self, trainer: LevelTrainer, spans: Sequence[Span]
    ) -> Generator[None, None, list[float]]:
        """Mean nats per token of each span's text alone, under the trainee as it is."""
        examples = [self._writer.plain(self._restore(span).text) for span in spans]
        batches = [examples[at : at + BATCH] for at in range(0, len(examples), BATCH)]
        packs = [pack(batch, row_tokens=ROW_TOKENS) for batch in batches]
        found = yield from trainer.surprises(packs)
        nats: list[float] = []
        for batch, packed, losses_N in zip(batches, packs, found, strict=True):
            for owner in range(len(batch)):
                mine = losses_N[packed.owners_N == owner]
                nats.append(float(mine.mean()) if len(mine) else 0.0)
        return nats


def _chosen(by_order: Sequence[str], by_model: Sequence[str], count: int) -> tuple[str, ...]:
    """Questions of both kinds in turn: the one is certain to fit, the other is freshly phrased."""
    turns = [*by_model[:1], *by_order[:1], *by_model[1:], *by_order[1:]]
    return tuple(dict.fromkeys(turns))[:count]


def _mean(values: Sequence[float], weights: Sequence[int]) -> float:
    total = sum(weights)
    return sum(v * w for v, w in zip(values, weights, strict=True)) / total if total else 0.0
