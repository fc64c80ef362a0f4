"""The outer loop: what a native model's weights, theta_0 and M_0 are learnt by.

A function of (model, task, settings). Knows the order of a step: draw, read, backward, add up,
clip, update, log, save. Gradients are gradients.py's, files checkpoint.py's and log.py's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hope_lab.train import log
from hope_lab.train.config import TrainConfig, learning_rate_at
from hope_lab.train.gradients import mean_loss, scores_of
from hope_lab.train.log import Step
from hope_lab.train.optimizer import make_optimizer, optimizer_state, restore_optimizer
from hope_lab.train.tasks.base import Task
from hope_lab.train.workers import Workers, joined
from hope_runtime.checkpoints import hope_run as checkpoint
from hope_runtime.errors import InvalidRequestError, TrainingDivergedError
from hope_runtime.models.hope.config import HopeConfig
from hope_runtime.models.hope.weights import HopeWeights, init_weights

# Apart from every step's own, so that no test is a training batch.
_TESTS_STEP = 2**40


@dataclass(frozen=True, slots=True)
class Trained:
    """A model after its last step, outside any graph, and the task's own readout."""

    config: HopeConfig
    weights: HopeWeights
    readout: Mapping[str, Tensor]
    last: Step | None


def train(
    config: HopeConfig,
    task: Task,
    how: TrainConfig,
    *,
    out: Path | None = None,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    report: Callable[[Step], None] | None = None,
) -> Trained:
    """Trains a model of `config` from the seed of `how`; the same call gives the same weights.

    With `out` the run is logged and stored there, and with `resume` it goes on from the newest
    checkpoint, bit for bit as if it had never stopped (on one device, with as many processes).
    `settings` are plain values that a resumed run must agree on, beside the model and `how`.

    Raises InvalidRequestError for an `out` that holds another run, and TrainingDivergedError when
    the loss or a gradient is not finite: what was stored before stays as it is.
    """
    with joined(how.device) as (workers, device):
        run = _Run(config, task, how, workers, device)
        if out is not None:
            run.attach(out, resume, dict(settings or {}))
        return run.finish(report)


def batch_generator(seed: int, step: int) -> torch.Generator:
    """The random numbers of one step's batch: a function of both, so nothing else is remembered."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 2 + 1)


def measure(trained: Trained, task: Task, how: TrainConfig) -> dict[str, dict[str, float]]:
    """Accuracy and loss (nats a counted place) of each of the task's tests."""
    batches = task.tests(how.test_rows, batch_generator(how.seed, _TESTS_STEP))
    found = {}
    for name, whole in batches.items():
        loss, right = 0.0, 0.0
        rows, counted = len(whole.ids_BT), int(whole.counted.sum())
        for start in range(0, rows, how.batch_rows):
            part = whole.rows(slice(start, start + how.batch_rows)).to(trained.weights.device)
            with torch.no_grad():
                scores = scores_of(
                    trained.config, trained.weights, task, trained.readout, part, how
                )
                loss += float(mean_loss(scores, part, counted))
            right += task.accuracy(scores, part) * len(part.ids_BT) / rows
        found[name] = {"accuracy": right, "loss": loss}
    return found


class _Run:
    """One run: the weights as leaves of the graph, their optimiser, and how far it has come."""

    def __init__(
        self,
        config: HopeConfig,
        task: Task,
        how: TrainConfig,
        workers: Workers,
        device: torch.device,
    ) -> None:
        if task.vocab_size > config.backbone.vocab_size:
            raise InvalidRequestError(
                f"task {task.name} has {task.vocab_size} token ids, but the model has "
                f"{config.backbone.vocab_size}",
                field="vocab_size",
            )
        self.config, self.task, self.how = config, task, how
        self.workers, self.device = workers, device
        self.step = 0
        self.out: Path | None = None
        self.settings: dict[str, Any] = {}
        own = torch.Generator().manual_seed(how.seed)
        self._take(init_weights(config, how.seed), task.readout(config, own))

    def _take(self, weights: HopeWeights, readout: Mapping[str, Tensor]) -> None:
        def leaf(tensor: Tensor) -> Tensor:
            return tensor.to(self.device, copy=True).requires_grad_()

        self.weights = weights.map(leaf)
        self.readout = {name: leaf(tensor) for name, tensor in readout.items()}
        named = dict(self.weights.named()) | {f"readout.{k}": v for k, v in self.readout.items()}
        self.parameters = list(named.values())
        self.optimizer = make_optimizer(named, self.how)

    def attach(self, out: Path, resume: bool, settings: dict[str, Any]) -> None:
        """Stores the run in `out` from now on, and takes up what is there when it resumes."""
        self.out = out
        self.settings = settings | {"train": self.how.to_fields()}
        if not resume:
            if checkpoint.exists(out):
                raise InvalidRequestError(
                    f"{out} already contains a run; use --resume or choose another directory",
                    field="out",
                )
            if self.workers.first:
                out.mkdir(parents=True, exist_ok=True)
                log.cut(out, 0)
            self.workers.wait()
            return
        saved = checkpoint.load(out)
        for name, mine, theirs in (
            ("model", self.config.to_fields(), saved.config.to_fields()),
            *((key, self.settings[key], saved.settings.get(key)) for key in self.settings),
        ):
            if mine != theirs:
                raise InvalidRequestError(
                    f"the run in {out} was started with other settings ({name}); resume it with "
                    "the same settings",
                    field=name,
                )
        self._take(saved.weights, saved.readout)
        restore_optimizer(self.optimizer, saved.optimizer_tensors, saved.optimizer_values)
        self.step = saved.step
        if self.workers.first:
            log.cut(out, saved.step)

    def finish(self, report: Callable[[Step], None] | None) -> Trained:
        """All the steps that are left."""
        last = None
        while self.step < self.how.steps:
            last = self._one_step()
            if report is not None:
                report(last)
            done = self.step == self.how.steps
            if self.out is not None and self.workers.first:
                if done or self.step % self.how.log_every == 0:
                    log.append(self.out, last)
                if done or (self.how.save_every and self.step % self.how.save_every == 0):
                    self._save(self.out)
        self.workers.wait()
        readout = {name: tensor.detach() for name, tensor in self.readout.items()}
        return Trained(self.config, self.weights.detached(), readout, last)

    def _one_step(self) -> Step:
        started = time.perf_counter()
        whole = self.task.batch(self.how.batch_rows, batch_generator(self.how.seed, self.step))
        counted = int(whole.counted.sum())
        part = self.workers.share(whole).to(self.device)
        scores = scores_of(self.config, self.weights, self.task, self.readout, part, self.how)
        loss = mean_loss(scores, part, counted)
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        self.optimizer.zero_grad(set_to_none=True)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            # A part that the task does not use still takes its part in the sum over processes.
            parameter.grad = torch.zeros_like(parameter) if gradient is None else gradient
        grads = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        summed = loss.detach().clone()
        self.workers.add_up([summed, *grads])
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in grads]))
        if not bool(torch.isfinite(summed) & torch.isfinite(norm)):
            raise TrainingDivergedError(
                f"the loss or its gradient is not finite at step {self.step + 1}; try a lower "
                "learning rate",
                step=self.step + 1,
            )
        if self.how.clip_norm:
            scale = (self.how.clip_norm / (norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(grads, scale)
        rate = learning_rate_at(self.how, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.step += 1
        seconds = time.perf_counter() - started
        return Step(self.step, float(summed), whole.ids_BT.numel() / seconds, rate, float(norm))

    def _save(self, out: Path) -> None:
        tensors, values = optimizer_state(self.optimizer)
        state = checkpoint.Saved(
            self.step,
            self.config,
            self.settings,
            self.weights,
            self.readout,
            tensors,
            values,
            self.task.tokenizer,
        )
        checkpoint.save(out, state)
