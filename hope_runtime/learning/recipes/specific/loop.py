"""The steps of a consolidation: what each one runs, and when there are enough.

Full steps: every statement of the stretch in each of them, with a fresh Adam, whose memory is short
because there are so few. What these would ruin is protected three times: by directions that the
first factors do not read, by what the memory is held to, and by stopping as soon as all is known.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from hope_runtime.learning.level_trainer import LevelTrainer
from hope_runtime.learning.packing import Example
from hope_runtime.learning.recipe import Work
from hope_runtime.learning.recipes.replay.null_space import CommonDirections, ConfinedSteps
from hope_runtime.learning.recipes.specific.batch import Item
from hope_runtime.learning.recipes.specific.gradients import StepGradients, StepLosses
from hope_runtime.learning.recipes.specific.held import Held
from hope_runtime.learning.recipes.specific.lower_layers import LowerLayers
from hope_runtime.learning.recipes.specific.price import full_steps
from hope_runtime.learning.reference import Rehearsed
from hope_runtime.optim.adam import Adam
from hope_runtime.optim.rule import InPlace
from hope_runtime.session.policy import SpecificConfig

_Item = TypeVar("_Item")
BETA1, BETA2 = 0.8, 0.95
# What unlearning weighs beside learning.
NEGATIVE_WEIGHT = 0.3


@dataclass(frozen=True, slots=True)
class StatementForms:
    """The forms of one statement or text, practised in turn, and what must not be said in them:
    answers up to a value that no longer holds, whose first token is the last one."""

    forms: list[Example]
    negatives: list[Example] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Material:
    """Everything that one consolidation draws from."""

    statements: list[StatementForms]
    plain: list[Example]
    earlier: list[Example]
    held: Held
    windows: list[Rehearsed]
    # Text that the base's own samples hold little of.
    foreign: list[Rehearsed]


@dataclass(frozen=True, slots=True)
class Limits:
    """The most steps and tokens that a consolidation may take; None: no limit but the recipe's."""

    steps: int | None = None
    tokens: int | None = None


class Practice:
    """The steps of one consolidation, under one optimiser."""

    def __init__(
        self,
        gradients: StepGradients,
        trainer: LevelTrainer,
        config: SpecificConfig,
        learning_rate: float,
        material: Material,
        directions: CommonDirections,
        lower: LowerLayers,
        rng: random.Random,
    ) -> None:
        self._gradients, self._trainer, self._config = gradients, trainer, config
        self._material, self._lower, self._rate = material, lower, learning_rate
        steps = InPlace(Adam(BETA1, BETA2), trainer.parameters)
        self._optimiser = ConfinedSteps(steps, trainer.adapter, directions, fresh=trainer.is_fresh)
        self._forms = _Forms(material.statements, config, rng)
        self._plain = _Turns(material.plain, rng)
        self._earlier = _Turns(material.earlier, rng)
        self._contrasts = _Turns(material.held.contrasts, rng)
        self._anchors = _Turns(material.held.anchors, rng)
        self._near = _Turns(material.held.near, rng)
        self._windows, self._foreign = _Turns(material.windows, rng), _Turns(material.foreign, rng)
        self._leaks: _Turns[Rehearsed] = _Turns([], rng)
        self._rng, self._steps, self._largest = rng, 0, 0
        self._unread: deque[tuple[list[tuple[int, int]], StepLosses]] = deque()

    def learn(self, limits: Limits) -> Work[None]:
        """Practise until all forms are known or the steps are over; yields the share done."""
        config, material = self._config, self._material
        count = len(material.statements)
        # Texts alone need no more steps than they are read again.
        total = (
            full_steps(count, config)
            if material.statements
            else min(config.steps, config.plain_passes)
        )
        total = total if limits.steps is None else max(1, min(total, limits.steps))
        plain_each = -(-len(material.plain) * config.plain_passes // total)
        while self._steps < total and self._affords(limits) and not self._enough:
            share = self._steps / max(total - 1, 1)
            self._step(1 - (1 - config.final_rate) * share, self._plain.draw(plain_each))
            yield self._steps / total
        self._look()

    def settle(self, leaks: Sequence[Rehearsed], limits: Limits) -> Work[None]:
        """Practise a little longer, slowly, and hold the memory at `leaks` from now on."""
        self._leaks = _Turns(leaks, self._rng)
        for _ in range(self._config.settling_steps):
            if self._affords(limits):
                self._step(self._config.final_rate, [])
                yield None
        self._look()

    @property
    def _enough(self) -> bool:
        least = self._steps >= self._config.least_steps and not self._material.plain
        return least and self._forms.all_known

    def _affords(self, limits: Limits) -> bool:
        return limits.tokens is None or self._trainer.tokens + self._largest <= limits.tokens

    def _step(self, rate: float, texts: Sequence[Example]) -> None:
        config, trainer = self._config, self._trainer
        before = trainer.tokens
        count = len(self._material.statements)
        # Of many statements each needs as much as of few, against the same that is held.
        weight = 1 + config.weight_each * (min(count, config.few_statements) - 1)
        firm = 1.0 if count <= config.few_statements else 0.5
        practised, places = self._forms.draw()
        negatives = self._forms.negatives()
        old = self._earlier.draw(config.earlier_per_step)
        # What it was found to say is told from what was told by nothing better than itself.
        leaks = self._leaks.draw(config.leaks_per_step)
        contrasts = min(config.contrasts_per_step + count, config.most_contrasts)
        kept = leaks or self._contrasts.draw(contrasts)
        weight *= config.settling_weight if leaks else 1
        some = round(config.near_share * config.anchors_per_step)
        # Each further statement has neighbours of its own.
        close = self._near.draw(some + max(count - 1, 0) // 2)
        held = [*close, *self._anchors.draw(config.anchors_per_step - some)]
        turn, remainder = divmod(self._steps, config.window_every)
        ordinary = self._windows if turn % 2 == 0 else self._foreign
        window = ordinary.draw(0 if remainder else 1)
        items = [
            # Each kind weighs by itself: a long text beside a few statements must not drown them,
            # nor what is new what was learnt earlier.
            *_weighed([Item(each, 1.0) for each in practised], weight),
            *_weighed([Item(each, 1.0) for each in texts], config.text_weight),
            *_weighed([Item(each, 1.0) for each in old], config.earlier_weight),
            *_weighed([Item(each, 1.0, unlikely=True) for each in negatives], NEGATIVE_WEIGHT),
            *_weighed([_item(each) for each in kept], firm * config.contrast_weight),
            *_weighed([_item(each) for each in held], firm * config.anchor_weight),
            *_weighed([_item(each) for each in window], config.rehearsal_weight),
        ]
        self._steps += 1
        gradients, found = self._gradients.of(items, trainer, self._lower)
        self._unread.append((places, found))
        # Of a gradient that is not finite nothing must be kept. A CPU looks at it before the step,
        # a GPU one step later: no memory takes over what a failed consolidation has made.
        self._look(self._gradients.steps_ahead)
        self._optimiser.step(gradients, self._rate * rate, config.second_rate)
        trainer.new_tokens += sum(len(each.ids) for each in (*practised, *texts))
        trainer.rehearsed_tokens += sum(len(item.example.ids) for item in items) - sum(
            len(each.ids) for each in (*practised, *texts)
        )
        self._largest = max(self._largest, trainer.tokens - before)

    def _look(self, ahead: int = 0) -> None:
        """Look at the losses of all steps but the last `ahead`."""
        while len(self._unread) > ahead:
            places, found = self._unread.popleft()
            self._forms.report(places, found.read(self._trainer)[: len(places)])


def _item(held: Rehearsed) -> Item:
    return Item(held.example, 1.0, held.reference)


def _weighed(items: Sequence[Item], weight: float) -> list[Item]:
    """The same with `weight` shared by all their targets."""
    targets = sum(item.targets for item in items)
    return [item.weighing(weight / max(targets, 1)) for item in items]


class _Turns(Generic[_Item]):
    """Draws items in shuffled epochs."""

    def __init__(self, items: Sequence[_Item], rng: random.Random) -> None:
        self._items = items
        self._rng = rng
        self._queue: list[int] = []

    def draw(self, count: int) -> list[_Item]:
        """Up to `count` different items."""
        drawn: list[int] = []
        while len(drawn) < min(count, len(self._items)):
            if not self._queue:
                self._queue = [n for n in range(len(self._items)) if n not in drawn]
                self._rng.shuffle(self._queue)
            drawn.append(self._queue.pop())
        return [self._items[place] for place in drawn]


class _Forms:
    """Draws the forms of statements: of each one a step, more where there are few statements."""

    def __init__(
        self, statements: Sequence[StatementForms], config: SpecificConfig, rng: random.Random
    ) -> None:
        self._statements = statements
        self._known_nats = config.known_nats
        count = max(len(statements), 1)
        least = 2 if count <= config.few_statements else 1
        self._each = max(least, -(-config.forms_per_step // count))
        self._turn = [rng.randrange(len(each.forms)) for each in statements]
        self._turns = 0
        self._worst = [[float("inf")] * len(each.forms) for each in statements]

    def draw(self) -> tuple[list[Example], list[tuple[int, int]]]:
        """Forms, and which they are."""
        places = []
        for number, each in enumerate(self._statements):
            for _ in range(min(self._each, len(each.forms))):
                places.append((number, self._turn[number] % len(each.forms)))
                self._turn[number] += 1
        return [self._statements[number].forms[form] for number, form in places], places

    def negatives(self) -> list[Example]:
        """One for each statement that has some."""
        self._turns += 1
        return [
            each.negatives[self._turns % len(each.negatives)]
            for each in self._statements
            if each.negatives
        ]

    def report(self, places: Sequence[tuple[int, int]], worst: Sequence[float]) -> None:
        """Takes note of the worst token's nats of each form that was drawn."""
        for (number, form), nats in zip(places, worst, strict=True):
            self._worst[number][form] = nats

    @property
    def all_known(self) -> bool:
        """Whether every token of every form was the likeliest one with a margin, when last run."""
        return all(nats < self._known_nats for each in self._worst for nats in each)
