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

from torch import Tensor
from torch.nn.functional import cross_entropy

from hope_runtime.config import ReplayConfig
from hope_runtime.learning.clauses import clause_starts, standing_alone
from hope_runtime.learning.common import ConfinedSteps, common_directions
from hope_runtime.learning.names import Names
from hope_runtime.learning.packing import Example, pack, share_out
from hope_runtime.learning.questions import ask
from hope_runtime.learning.reference import Rehearsed
from hope_runtime.learning.rehearsal import Samples
from hope_runtime.learning.replays import ReplayWriter, Statement, may_be_voiced
from hope_runtime.learning.strangers import Strangers
from hope_runtime.learning.training import Trainee
from hope_runtime.learning.word_order import questions_by_word_order
from hope_runtime.learning.workers import Workers
from hope_runtime.log import Speaker
from hope_runtime.memory.state import Span
from hope_runtime.model.weights import BaseModel
from hope_runtime.optim.adam import Adam
from hope_runtime.optim.rule import InPlace

ROW_TOKENS = 128
# Examples that are read together where nothing is trained.
BATCH = 16
# Packs that an optimiser step is cut into, whatever the number of cores: each has its own copy of
# the shared prefix, so more of them cost more.
SHARES = 2


@dataclass(frozen=True, slots=True)
class Practised:
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
        self._strangers = Strangers(model, workers, self._writer)

    def practise(
        self,
        trainee: Trainee,
        config: ReplayConfig,
        learning_rate: float,
        spans: Sequence[Span],
        buffer: Sequence[Span],
        samples: Samples,
        seed: int,
    ) -> Generator[None, None, Practised]:
        """Trains `trainee` on `spans`, rehearsing `buffer` and `samples`; yields between steps."""
        spans = [part for span in spans for part in self._clauses(span)]
        before = yield from self.surprises(trainee, spans)
        spans = tuple(
            replace(span, surprise_nats=nats) if span.surprise_nats is None else span
            for span, nats in zip(spans, before, strict=True)
        )
        statements, plain = yield from self._prepare(spans, config)
        earlier = [self._restore(span) for span in buffer]
        session = _Session(
            replays=[example for item in statements for example in self._writer.replays(item)],
            plain=[self._writer.plain(text) for text in plain],
            earlier=[example for item in earlier for example in self._writer.replays(item)],
            contrasted=[*statements, *earlier],
        )
        stated = sum(len(item.span.ids) for item in statements)
        other = sum(len(span.ids) for span in spans) - stated
        budget = config.budget_tokens(stated, other)
        if statements:
            config = config.in_steps(budget, session.step_tokens(config))
        rate = learning_rate if trainee.is_fresh else learning_rate * config.later_rate
        yield from self._train(trainee, config, rate, session, samples, budget, random.Random(seed))
        after = yield from self.surprises(trainee, spans)
        kept = {item.span.start: item for item in statements}
        found = tuple(
            replace(span, cues=self._encode_cues(kept[span.start])) if span.start in kept else span
            for span in spans
        )
        weights = [len(span.ids) for span in spans]
        return Practised(found, _mean(before, weights), _mean(after, weights))

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
        self, trainee: Trainee, spans: Sequence[Span]
    ) -> Generator[None, None, list[float]]:
        """Mean nats per token of each span's text alone, under the trainee as it is."""
        examples = [self._writer.plain(self._restore(span).text) for span in spans]
        batches = [examples[at : at + BATCH] for at in range(0, len(examples), BATCH)]
        packs = [pack(batch, row_tokens=ROW_TOKENS) for batch in batches]
        found = yield from trainee.surprises(packs)
        nats: list[float] = []
        for batch, packed, losses_N in zip(batches, packs, found, strict=True):
            for owner in range(len(batch)):
                mine = losses_N[packed.owners_N == owner]
                nats.append(float(mine.mean()) if len(mine) else 0.0)
        return nats

    # Training

    def _train(
        self,
        trainee: Trainee,
        config: ReplayConfig,
        learning_rate: float,
        session: _Session,
        samples: Samples,
        budget: int,
        rng: random.Random,
    ) -> Generator[None, None, None]:
        new = _Deck(len(session.replays) + len(session.plain), rng, config)
        old = _Deck(len(session.earlier), rng, config)
        windows = _Deck(len(samples.windows), rng, config)
        told = self._strangers.told(session.contrasted, config.contrasts_each, rng)
        yield
        answered: list[Rehearsed] = []
        ask_at = list(config.answered_at)
        strangers, own = _Deck(len(told), rng, config), _Deck(0, rng, config)
        steps = InPlace(Adam(), trainee.parameters)
        optimiser: InPlace | ConfinedSteps = steps
        if told and config.common_directions:
            directions = common_directions(
                self._model,
                self._workers,
                [contrast.example for contrast in told],
                config.common_directions,
                row_tokens=ROW_TOKENS,
            )
            optimiser = ConfinedSteps(steps, trainee.terms, directions, fresh=trainee.is_fresh)
            yield
        examples_new = [*session.replays, *session.plain]
        step = 0
        while trainee.tokens < budget and len(new):
            step += 1
            if ask_at and trainee.tokens >= ask_at[0] * budget:
                ask_at.pop(0)
                answered = self._strangers.answered(
                    trainee, session.contrasted, samples.questions, rng
                )
                own = _Deck(len(answered), rng, config)
                yield
            drawn_new = new.draw(config.new_per_step)
            drawn_old = old.draw(config.earlier_per_step)
            contrasting = step > config.contrasts_after or not trainee.is_fresh
            contrasts = [answered[i] for i in own.draw(config.answered_per_step)]
            missing = config.contrasts_per_step - len(contrasts)
            contrasts += [told[i] for i in strangers.draw(missing if contrasting else 0)]
            held = [
                samples.windows[i] for i in windows.draw(int((step - 1) % config.window_every == 0))
            ]
            practised = [examples_new[i] for i in drawn_new]
            practised += [session.earlier[i] for i in drawn_old]
            losses = self._step(
                trainee,
                config,
                optimiser,
                practised,
                contrasts,
                held,
                learning_rate * _schedule(step, trainee.tokens / budget, config),
            )
            rehearsed = practised[len(drawn_new) :]
            rehearsed += [anchor.example for anchor in (*contrasts, *held)]
            trainee.new_tokens += _tokens(practised[: len(drawn_new)])
            trainee.rehearsed_tokens += _tokens(rehearsed)
            new.report(drawn_new, losses[: len(drawn_new)])
            old.report(drawn_old, losses[len(drawn_new) :])
            yield
            # A statement alone is known after a few steps, which are the ones that harm most.
            if new.all_known and (step >= config.least_steps or not session.replays):
                break

    def _step(
        self,
        trainee: Trainee,
        config: ReplayConfig,
        optimiser: InPlace | ConfinedSteps,
        practised: Sequence[Example],
        contrasts: Sequence[Rehearsed],
        held: Sequence[Rehearsed],
        rate: float,
    ) -> list[float]:
        """One optimiser step. Returns the mean nats of each practised example before it."""
        anchors = [*contrasts, *held]
        examples = [*practised, *(anchor.example for anchor in anchors)]
        # Each kind's loss is the mean over its targets; here, what one target weighs in it.
        weights = [
            weight / sum(map(_targets, part))
            for part, weight in (
                (practised, 1.0),
                ([contrast.example for contrast in contrasts], config.contrast_weight),
                ([window.example for window in held], config.rehearsal_weight),
            )
            for _ in part
        ]
        shares = share_out(examples, SHARES)
        found = [0.0] * len(practised)

        def loss(share: int, scores_NV: Tensor) -> Tensor:
            members, packed = shares[share]
            # Targets come row by row; sorted by example they line up with the references.
            order = packed.owners_N.argsort(stable=True)
            owners_N = packed.owners_N[order]
            scores_NV = scores_NV[order]
            counts = owners_N.bincount(minlength=len(members)).tolist()
            total = scores_NV.new_zeros(())
            at = 0
            for member, count in zip(members, counts, strict=True):
                mine_NV = scores_NV[at : at + count]
                if member < len(practised):
                    targets_N = packed.targets_N[order[at : at + count]].to(mine_NV.device)
                    term = cross_entropy(mine_NV, targets_N, reduction="sum")
                    found[member] = float(term.detach()) / max(count, 1)
                else:
                    reference = anchors[member - len(practised)].reference
                    term = reference.divergence(mine_NV).sum()
                total = total + weights[member] * term
                at += count
            return total

        packs = [packed for _, packed in shares]
        optimiser.step(trainee.gradient(loss, packs), rate)
        return found


def _tokens(examples: Sequence[Example]) -> int:
    return sum(len(example.prefix) + len(example.ids) for example in examples)


def _targets(example: Example) -> int:
    """How many tokens are predicted; a first one without a predecessor is not."""
    return sum(example.targets) - (example.targets[0] and not example.prefix)


@dataclass(frozen=True, slots=True)
class _Session:
    """Everything that one consolidation draws from."""

    replays: list[Example]
    plain: list[Example]
    earlier: list[Example]
    contrasted: list[Statement]

    def step_tokens(self, config: ReplayConfig) -> float:
        """About how many tokens one step runs."""
        examples = [*self.replays, *self.plain]
        mean = _tokens(examples) / max(1, len(examples))
        drawn = min(len(examples), config.new_per_step)
        drawn += min(len(self.earlier), config.earlier_per_step)
        drawn += config.contrasts_per_step if self.contrasted else 0
        return max(1.0, mean * drawn + ROW_TOKENS / config.window_every)


class _Deck:
    """Draws indices in shuffled epochs; what is known already is mostly skipped."""

    def __init__(self, size: int, rng: random.Random, config: ReplayConfig) -> None:
        self._size = size
        self._rng = rng
        self._known_nats = config.known_nats
        self._skip = config.skip_known
        self._losses = [float("inf")] * size
        self._queue: list[int] = []

    def __len__(self) -> int:
        return self._size

    @property
    def all_known(self) -> bool:
        return all(loss < self._known_nats for loss in self._losses)

    def draw(self, count: int) -> list[int]:
        """Up to `count` different indices, fewer when most are known."""
        drawn: list[int] = []
        for _ in range(4 * self._size):
            if len(drawn) >= min(count, self._size):
                break
            if not self._queue:
                self._queue = list(range(self._size))
                self._rng.shuffle(self._queue)
            index = self._queue.pop()
            known = self._losses[index] < self._known_nats
            if index not in drawn and not (known and self._rng.random() < self._skip):
                drawn.append(index)
        return drawn

    def report(self, indices: Sequence[int], losses: Sequence[float]) -> None:
        for index, loss in zip(indices, losses, strict=True):
            self._losses[index] = loss


def _chosen(by_order: Sequence[str], by_model: Sequence[str], count: int) -> tuple[str, ...]:
    """Questions of both kinds in turn: the one is certain to fit, the other is freshly phrased."""
    turns = [*by_model[:1], *by_order[:1], *by_model[1:], *by_order[1:]]
    return tuple(dict.fromkeys(turns))[:count]


def _schedule(step: int, progress: float, config: ReplayConfig) -> float:
    """Linear warm-up over the first steps, then linear decay over the budget."""
    warm = min(1.0, step / config.warmup_steps)
    return warm * (1 - (1 - config.final_rate) * min(1.0, progress))


def _mean(values: Sequence[float], weights: Sequence[int]) -> float:
    total = sum(weights)
    return sum(v * w for v, w in zip(values, weights, strict=True)) / total if total else 0.0
