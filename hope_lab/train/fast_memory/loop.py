"""The outer loop of a fast memory: read texts with the base, write, ask, improve.

A run of so many steps is a function of its settings: rounds of texts, episodes and batches come
from the seed and the number of the round or step. Every `round_every` steps one more round is read
by the base; the pool that steps draw from holds the newest ones. The rate is constant after a
warm-up and falls to the end, which is a number of steps, or a time: then it depends on the machine
how many steps there are, but the schedule is always finished.

Knows the order of things and the run's files; texts are episodes.py's, features features.py's,
the loss loss.py's, tests held_out.py's.
"""

from __future__ import annotations

import json
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hope_lab.train.fast_memory import checkpoint, log
from hope_lab.train.fast_memory.config import MemoryTrainConfig
from hope_lab.train.fast_memory.episodes import Split, Storyteller
from hope_lab.train.fast_memory.features import Reader, RoundFeatures, round_texts
from hope_lab.train.fast_memory.held_out import HeldOut
from hope_lab.train.fast_memory.log import MemoryStep
from hope_lab.train.fast_memory.loss import FACTS, Scored, dropout, scored
from hope_lab.train.fast_memory.pool import Pool
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

FAST_MEMORY = "fast_memory.safetensors"


def train_fast_memory(
    model: BaseModel,
    config: FastMemoryConfig,
    how: MemoryTrainConfig,
    out: Path,
    *,
    begin: FastMemoryWeights | None = None,
    resume: bool = False,
    report: Callable[[MemoryStep], None] = lambda step: None,
) -> FastMemory:
    """Trains a fast memory beside `model`; without a time limit, the same call gives the same one
    on one kind of machine.

    `begin` are weights of the same configuration to go on from; `how` names them. The run is logged
    and stored in `out`, texts and all; with `resume` it goes on from its last stored step as if it
    had never stopped. Raises InvalidRequestError for an `out` that holds another run, and
    TrainingDivergedError.
    """
    if config.target != model.config.n_layers:
        raise InvalidRequestError(
            "only a fast memory behind the last layer can be trained", field="layers"
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
    run = _Run(model, config, how, out, begin or init_weights(config, how.seed))
    if saved is not None:
        run.resume(saved)
    return run.finish(report)


class _Run:
    def __init__(
        self,
        model: BaseModel,
        config: FastMemoryConfig,
        how: MemoryTrainConfig,
        out: Path,
        begin: FastMemoryWeights,
    ) -> None:
        self.started = time.monotonic()
        self.model, self.config, self.how, self.out = model, config, how, out
        # Reading again is quicker than a GPU's features are stored.
        self.texts = out / "texts" if model.device.type == "cpu" else None
        out.mkdir(parents=True, exist_ok=True)
        if self.texts:
            self.texts.mkdir(exist_ok=True)
        self.step = 0
        self.before_seconds = 0.0
        self._take(begin)
        self.teller = Storyteller(model.tokenizer, Split.TRAINED)
        self.reader = Reader(model, config, self.teller)
        self.unchanged = self.reader.unchanged(how.seed, self._file("unchanged"))
        self.rounds: deque[tuple[int, RoundFeatures]] = deque()
        self.pool: Pool | None = None
        self.held_out = HeldOut(model, config, how, self.unchanged, self._file)

    @property
    def seconds(self) -> float:
        """Seconds that the run has taken, earlier parts included."""
        return self.before_seconds + time.monotonic() - self.started

    def _file(self, name: str) -> Path | None:
        return None if self.texts is None else self.texts / f"{name}.safetensors"

    def _take(self, weights: FastMemoryWeights) -> None:
        self.weights = FastMemoryWeights.from_named(
            {
                name: tensor.detach().to(self.model.device, torch.float32, copy=True)
                for name, tensor in weights.named()
            }
        )
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
            fused=True,
        )

    def _pool(self) -> Pool:
        """The texts of this step; those of older rounds have been dropped."""
        wanted = self.how.rounds(self.step)
        if self.pool is None or self.rounds[-1][0] != wanted[-1]:
            for index in wanted:
                if not self.rounds or index > self.rounds[-1][0]:
                    self.rounds.append((index, self._round(index)))
            while self.rounds[0][0] < wanted[0]:
                dropped = self._file(f"round-{self.rounds.popleft()[0]:05d}")
                if dropped is not None:
                    dropped.unlink(missing_ok=True)
            self.pool = None  # before the next one is made, which takes as much again
            rounds = [one for _, one in self.rounds]
            self.pool = Pool(rounds, self.unchanged, self.config.taps)
        return self.pool

    def _round(self, index: int) -> RoundFeatures:
        told = round_texts(self.teller, self.how.seed, index, self.how.stories_a_round)
        return self.reader.stories(told, self._file(f"round-{index:05d}"))

    def finish(self, report: Callable[[MemoryStep], None]) -> FastMemory:
        """Steps to the end, at least one, storing the run now and then."""
        done = self.step > 0 and self._is_over()
        while not done:
            last, rate = self._one_step()
            # Asked once a step: a time that ended between two answers would skip the last test.
            done = self._is_over()
            tested = (
                self.held_out.test(self._detached())
                if done or self.step % self.how.test_every == 0
                else None
            )
            if tested or self.step % self.how.log_every == 0:
                line = MemoryStep(
                    self.step,
                    round(self.seconds / 60, 2),
                    rate,
                    last.answer_nats,
                    last.kl,
                    last.values,
                    last.answers,
                    last.completions,
                    self.pool.facts if self.pool else 0,
                    tested,
                )
                log.append(self.out, line)
                report(line)
            if done or self.step % self.how.save_every == 0:
                self._save()
        return FastMemory(self.config, self._detached())

    def _is_over(self) -> bool:
        return self.how.progress(self.step, self.seconds) >= 1.0

    def _one_step(self) -> tuple[Scored, float]:
        """The loss before the step, and the step's rate."""
        how, device = self.how, self.model.device
        pool = self._pool()
        rng = random.Random(f"memory:{how.seed}:step:{self.step}")
        facts = rng.choice(FACTS)
        episodes = [pool.episode(rng, facts) for _ in range(max(1, how.facts_a_step // facts))]
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=how.autocast):
            found = scored(
                self.model,
                self.config,
                self.weights,
                pool,
                episodes,
                questions=how.questions,
                rng=rng,
                whole_vocabulary=how.whole_vocabulary,
                drop=dropout(how.dropout, how.seed * 1_000_003 + self.step, device),
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
        rate = how.rate(self.step, self.seconds)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.step += 1
        return found, rate

    def _detached(self) -> FastMemoryWeights:
        return FastMemoryWeights.from_named({n: t.detach() for n, t in self.weights.named()})

    def _save(self) -> None:
        tensors, values = optimizer_state(self.optimizer)
        settings = _settings(self.model, self.config, self.how)
        weights = self._detached()
        saved = checkpoint.Saved(self.step, self.seconds, settings, weights, tensors, values)
        checkpoint.save(self.out, saved)
        save_fast_memory(
            self.out / FAST_MEMORY, FastMemory(self.config, weights), self.model.fingerprint
        )

    def resume(self, saved: checkpoint.Saved) -> None:
        """Goes on from a stored step. Texts are read again where no file has them."""
        self._take(saved.weights)
        restore_optimizer(self.optimizer, saved.optimizer_tensors, saved.optimizer_values)
        self.step, self.before_seconds = saved.step, saved.seconds
        log.cut(self.out, self.step)


def _settings(model: BaseModel, config: FastMemoryConfig, how: MemoryTrainConfig) -> dict[str, Any]:
    """Plain values that a resumed run must agree on."""
    chosen = asdict(how)
    for changeable in ("steps", "minutes", "save_every", "test_every", "log_every"):
        del chosen[changeable]
    settings = {"fast_memory": config.to_fields(), "how": chosen, "base": model.fingerprint}
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
