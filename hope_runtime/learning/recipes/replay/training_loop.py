"""The steps of a consolidation: what each one runs, how far it goes, and when there are enough.

Every step runs a few replays of what is new, a few of what was learnt earlier, contrasts, and now
and then a window of the base's own samples. What all these are is replay.py's business.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import cross_entropy

from hope_runtime.learning.base_samples import BaseSamples
from hope_runtime.learning.level_trainer import LevelTrainer
from hope_runtime.learning.packing import ROW_TOKENS, Example, share_out
from hope_runtime.learning.recipe import Work
from hope_runtime.learning.recipes.replay.negatives import Negatives
from hope_runtime.learning.recipes.replay.null_space import ConfinedSteps, common_directions
from hope_runtime.learning.reference import Rehearsed
from hope_runtime.learning.statements.english.statement import Statement
from hope_runtime.learning.workers import Workers
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.optim.adam import Adam
from hope_runtime.optim.rule import InPlace
from hope_runtime.session.policy import ReplayConfig

# Packs that an optimiser step is cut into, whatever the number of cores: each has its own copy of
# the shared prefix, so more of them cost more.
SHARES = 2


@dataclass(frozen=True, slots=True)
class Material:
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


class TrainingLoop:
    """Trains levels of one base model's sessions."""

    def __init__(self, model: BaseModel, workers: Workers, negatives: Negatives) -> None:
        self._model = model
        self._workers = workers
        self._strangers = negatives

    def train(
        self,
        trainer: LevelTrainer,
        config: ReplayConfig,
        learning_rate: float,
        material: Material,
        samples: BaseSamples,
        budget: int,
        rng: random.Random,
    ) -> Work[None]:
        """Practises until all of it is known or `budget` tokens were run; yields between steps."""
        new = _Deck(len(material.replays) + len(material.plain), rng, config)
        old = _Deck(len(material.earlier), rng, config)
        windows = _Deck(len(samples.windows), rng, config)
        told = self._strangers.told(material.contrasted, config.contrasts_each, rng)
        yield None
        answered: list[Rehearsed] = []
        ask_at = list(config.answered_at)
        negatives, own = _Deck(len(told), rng, config), _Deck(0, rng, config)
        steps = InPlace(Adam(), trainer.parameters)
        optimiser: InPlace | ConfinedSteps = steps
        if told and config.common_directions:
            directions = common_directions(
                self._model,
                self._workers,
                [contrast.example for contrast in told],
                config.common_directions,
                row_tokens=ROW_TOKENS,
            )
            optimiser = ConfinedSteps(steps, trainer.adapter, directions, fresh=trainer.is_fresh)
            yield None
        examples_new = [*material.replays, *material.plain]
        step = 0
        while trainer.tokens < budget and len(new):
            step += 1
            if ask_at and trainer.tokens >= ask_at[0] * budget:
                ask_at.pop(0)
                answered = self._strangers.answered(
                    trainer, material.contrasted, samples.questions, rng
                )
                own = _Deck(len(answered), rng, config)
                yield None
            drawn_new = new.draw(config.new_per_step)
            drawn_old = old.draw(config.earlier_per_step)
            contrasting = step > config.contrasts_after or not trainer.is_fresh
            contrasts = [answered[i] for i in own.draw(config.answered_per_step)]
            missing = config.contrasts_per_step - len(contrasts)
            contrasts += [told[i] for i in negatives.draw(missing if contrasting else 0)]
            held = [
                samples.windows[i] for i in windows.draw(int((step - 1) % config.window_every == 0))
            ]
            practised = [examples_new[i] for i in drawn_new]
            practised += [material.earlier[i] for i in drawn_old]
            losses = self._step(
                trainer,
                config,
                optimiser,
                practised,
                contrasts,
                held,
                learning_rate * _schedule(step, trainer.tokens / budget, config),
            )
            rehearsed = practised[len(drawn_new) :]
            rehearsed += [anchor.example for anchor in (*contrasts, *held)]
            trainer.new_tokens += _tokens(practised[: len(drawn_new)])
            trainer.rehearsed_tokens += _tokens(rehearsed)
            new.report(drawn_new, losses[: len(drawn_new)])
            old.report(drawn_old, losses[len(drawn_new) :])
            yield min(1.0, trainer.tokens / budget)
            # A statement alone is known after a few steps, which are the ones that harm most.
            if new.all_known and (step >= config.least_steps or not material.replays):
                break

    def _step(
        self,
        trainer: LevelTrainer,
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

        def loss(share: int, logits_NV: Tensor) -> Tensor:
            members, packed = shares[share]
            # Targets come row by row; sorted by example they line up with the references.
            order = packed.owners_N.argsort(stable=True)
            owners_N = packed.owners_N[order]
            logits_NV = logits_NV[order]
            counts = owners_N.bincount(minlength=len(members)).tolist()
            total = logits_NV.new_zeros(())
            at = 0
            for member, count in zip(members, counts, strict=True):
                mine_NV = logits_NV[at : at + count]
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
        optimiser.step(trainer.gradient(loss, packs), rate)
        return found


def _tokens(examples: Sequence[Example]) -> int:
    return sum(len(example.prefix) + len(example.ids) for example in examples)


def _targets(example: Example) -> int:
    """Number of predicted tokens; a first one without a predecessor is not counted."""
    return sum(example.targets) - (example.targets[0] and not example.prefix)


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


def _schedule(step: int, progress: float, config: ReplayConfig) -> float:
    """Linear warm-up over the first steps, then linear decay over the budget."""
    warm = min(1.0, step / config.warmup_steps)
    return warm * (1 - (1 - config.final_rate) * min(1.0, progress))
