"""The outer loop of a branch: read texts with the base, write, ask, improve.

A run is a function of its settings: rounds of texts, episodes and batches come from the seed and
the number of the round or step. Every `round_every` steps one more round is read by the base and
joins those before it, so the texts grow with the run and are drawn from many times. The rate is
constant after a warm-up and falls over the last fifth of the steps.

Knows the order of things and the run's files; texts are episodes.py's, features features.py's,
the loss loss.py's.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from hope_lab.train.fast_memory import checkpoint, log
from hope_lab.train.fast_memory.episodes import Storyteller
from hope_lab.train.fast_memory.features import (
    STORIES_A_ROUND,
    PlainFeatures,
    Reader,
    round_texts,
)
from hope_lab.train.fast_memory.log import MemoryStep
from hope_lab.train.fast_memory.loss import FACTS, Scored, Texts, dropout, scored
from hope_lab.train.optimizer import optimizer_state, restore_optimizer
from hope_runtime.checkpoints.fast_memory import save_fast_memory
from hope_runtime.errors import InvalidRequestError, TrainingDivergedError
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.fast_memory.weights import (
    FastMemory,
    FastMemoryConfig,
    FastMemoryWeights,
    init_weights,
)

BRANCH = "branch.safetensors"
_HELD_OUT_ROUND = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryTrainConfig:
    """One run. `steps` may grow when it is resumed, before the rate has begun to fall."""

    steps: int
    seed: int = 0
    learning_rate: float = 2e-3
    warmup_steps: int = 40
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    dropout: float = 0.1
    # About so many facts are written, and at most so many of each episode asked, in a step.
    facts_a_step: int = 64
    questions: int = 24
    first_rounds: int = 10
    round_every: int = 30
    stories_a_round: int = STORIES_A_ROUND
    save_every: int = 50
    test_every: int = 100
    test_stories: int = 32
    log_every: int = 10
    autocast: bool = False

    def __post_init__(self) -> None:
        if min(self.steps, self.first_rounds, self.round_every, self.facts_a_step) < 1:
            raise ValueError("steps, rounds and facts must be at least 1")
        if min(self.stories_a_round, self.save_every, self.test_every, self.log_every) < 1:
            raise ValueError("stories and intervals must be at least 1")

    def rate(self, step: int) -> float:
        """The learning rate of step 0, 1, ..."""
        falling = max(1, self.steps // 5)
        left = min(1.0, (self.steps - step) / falling)
        return self.learning_rate * min(1.0, (step + 1) / self.warmup_steps) * left

    def rounds(self, step: int) -> int:
        """How many rounds of texts step 0, 1, ... draws from."""
        return self.first_rounds + step // self.round_every


def train_fast_memory(
    model: BaseModel,
    config: FastMemoryConfig,
    how: MemoryTrainConfig,
    out: Path,
    *,
    resume: bool = False,
    minutes: float | None = None,
    report: Callable[[MemoryStep], None] = lambda step: None,
) -> FastMemory:
    """Trains a branch beside `model`; the same call gives the same branch on one kind of machine.

    The run is logged and stored in `out`, texts and all; with `resume` it goes on from there as if
    it had never stopped. After `minutes` it stops early, ready to be resumed. Raises
    InvalidRequestError for an `out` that holds another run, and TrainingDivergedError.
    """
    if config.target != model.config.n_layers:
        raise InvalidRequestError(
            "only a fast memory that adds its output after the last layer can be trained",
            field="layers",
        )
    saved = checkpoint.load(out) if resume else None
    if saved is not None:
        theirs = dict(saved.settings)
        if model.is_known_as(theirs.get("base")):
            theirs["base"] = model.fingerprint
        _check_same(out, theirs, _settings(model, config, how))
    elif checkpoint.exists(out):
        raise InvalidRequestError(
            f"{out} already contains a run; use --resume or choose another directory", field="out"
        )
    run = _Run(model, config, how, out)
    if saved is not None:
        run.resume(saved)
    return run.finish(minutes, report)


class _Run:
    def __init__(
        self, model: BaseModel, config: FastMemoryConfig, how: MemoryTrainConfig, out: Path
    ) -> None:
        self.model, self.config, self.how, self.out = model, config, how, out
        (out / "texts").mkdir(parents=True, exist_ok=True)
        self.step = 0
        self.seconds = 0.0
        self.rounds = 0
        self._take(init_weights(config, how.seed))
        self.teller = Storyteller(model.tokenizer, held_out=False)
        self.reader = Reader(model, config, self.teller)
        self.texts = Texts(self._plain())
        self.tests = self._tests()

    def _take(self, weights: FastMemoryWeights) -> None:
        self.weights = weights.to(torch.float32, self.model.device)
        for _, tensor in self.weights.named():
            tensor.requires_grad_()
        groups: list[dict[str, Any]] = [
            {"params": [t for _, t in self.weights.named() if t.dim() == 2]},
            {"params": [t for _, t in self.weights.named() if t.dim() < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            groups,
            lr=self.how.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=self.how.weight_decay,
            foreach=True,
        )

    def _plain(self) -> list[PlainFeatures]:
        return self.reader.plain(self.how.seed, self.out / "texts" / "plain.safetensors")

    def _tests(self) -> Texts:
        teller = Storyteller(self.model.tokenizer, held_out=True)
        reader = Reader(self.model, self.config, teller)
        told = round_texts(teller, self.how.seed, _HELD_OUT_ROUND, self.how.test_stories)
        tests = Texts([])
        tests.add(reader.stories(told, self.out / "texts" / "held_out.safetensors"))
        return tests

    def _more_texts(self) -> None:
        while self.rounds < self.how.rounds(self.step):
            told = round_texts(self.teller, self.how.seed, self.rounds, self.how.stories_a_round)
            file = self.out / "texts" / f"round-{self.rounds:05d}.safetensors"
            self.texts.add(self.reader.stories(told, file))
            self.rounds += 1

    def finish(self, minutes: float | None, report: Callable[[MemoryStep], None]) -> FastMemory:
        started = time.monotonic()
        before = self.seconds
        while self.step < self.how.steps:
            last = self._one_step()
            self.seconds = before + time.monotonic() - started
            done = self.step == self.how.steps
            tested = None
            if done or self.step % self.how.test_every == 0:
                tested = self.test()
            if done or tested or self.step % self.how.log_every == 0:
                line = MemoryStep(
                    self.step,
                    round(self.seconds / 60, 2),
                    self.how.rate(self.step - 1),
                    last.answer_nats,
                    last.kl,
                    last.values,
                    last.answers,
                    sum(len(story.asked) for story in self.texts.stories),
                    tested,
                )
                log.append(self.out, line)
                report(line)
            stop = minutes is not None and time.monotonic() - started > 60 * minutes
            if done or stop or self.step % self.how.save_every == 0:
                self._save()
            if stop:
                break
        return FastMemory(self.config, self._detached())

    def _one_step(self) -> Scored:
        how = self.how
        self._more_texts()
        rng = random.Random(f"memory:{how.seed}:step:{self.step}")
        facts = rng.choice(FACTS)
        count = max(1, how.facts_a_step // facts)
        episodes = [self.texts.episode(rng, facts) for _ in range(count)]
        plain = [rng.choice(self.texts.plain)] if self.texts.plain else []
        with torch.autocast(self.model.device.type, dtype=torch.bfloat16, enabled=how.autocast):
            found = scored(
                self.model,
                self.config,
                self.weights,
                episodes,
                plain=plain,
                questions=how.questions,
                rng=rng,
                drop=dropout(how.dropout, how.seed * 1_000_003 + self.step),
            )
        self.optimizer.zero_grad(set_to_none=True)
        found.loss.backward()  # type: ignore[no-untyped-call]
        tensors = [tensor for _, tensor in self.weights.named()]
        norm = torch.nn.utils.clip_grad_norm_(tensors, how.clip_norm)
        if not bool(torch.isfinite(found.loss) & torch.isfinite(norm)):
            raise TrainingDivergedError(
                f"the loss or its gradient is not finite at step {self.step + 1}; try a lower "
                "learning rate",
                step=self.step + 1,
            )
        for group in self.optimizer.param_groups:
            group["lr"] = how.rate(self.step)
        self.optimizer.step()
        self.step += 1
        return found

    @torch.no_grad()
    def test(self) -> dict[str, float]:
        """Shares of right values, word by word behind the right words, for 8 and 24 facts told
        about people, in words and with values that training never saw."""
        found = {}
        for facts, batches, count in ((8, 3, 4), (24, 2, 2)):
            rng = random.Random(f"tests:{facts}")
            values = answers = total = 0.0
            for _ in range(batches):
                episodes = [self.tests.episode(rng, facts) for _ in range(count)]
                one = scored(
                    self.model, self.config, self._detached(), episodes, whole_vocabulary=True
                )
                values += one.values * one.questions
                answers += one.answers * one.questions
                total += one.questions
            found[f"values_{facts}"] = round(values / total, 4)
            found[f"answers_{facts}"] = round(answers / total, 4)
            found[f"questions_{facts}"] = total
        return found

    def _detached(self) -> FastMemoryWeights:
        return FastMemoryWeights.from_named({n: t.detach() for n, t in self.weights.named()})

    def _save(self) -> None:
        tensors, values = optimizer_state(self.optimizer)
        settings = _settings(self.model, self.config, self.how)
        weights = self._detached()
        saved = checkpoint.Saved(self.step, self.seconds, settings, weights, tensors, values)
        checkpoint.save(self.out, saved)
        save_fast_memory(
            self.out / BRANCH, FastMemory(self.config, weights), self.model.fingerprint
        )

    def resume(self, saved: checkpoint.Saved) -> None:
        self._take(saved.weights)
        restore_optimizer(self.optimizer, saved.optimizer_tensors, saved.optimizer_values)
        self.step, self.seconds = saved.step, saved.seconds
        log.cut(self.out, self.step)


def _settings(model: BaseModel, config: FastMemoryConfig, how: MemoryTrainConfig) -> dict[str, Any]:
    """Plain values that a resumed run must agree on."""
    chosen = asdict(how)
    for changeable in ("steps", "save_every", "test_every", "log_every"):
        del chosen[changeable]
    settings = {"branch": config.to_fields(), "how": chosen, "base": model.fingerprint}
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain


def _check_same(out: Path, theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    for name, value in mine.items():
        if theirs.get(name) != value:
            raise InvalidRequestError(
                f"the run in {out} was started with other settings ({name}); resume it with the "
                "same settings",
                field=name,
            )
