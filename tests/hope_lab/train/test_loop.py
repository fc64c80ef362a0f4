"""The outer loop: schedule, a resumed run, truncation, processes, and a loss that is not finite."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from hope_lab.train import TrainConfig, log, measure, train
from hope_lab.train.config import learning_rate_at
from hope_lab.train.gradients import mean_loss, scores_of
from hope_lab.train.log import Step
from hope_lab.train.loop import batch_generator
from hope_lab.train.optimizer import OPTIMIZERS, make_optimizer
from hope_lab.train.tasks import Task, make_task
from hope_runtime.checkpoints import hope_run as checkpoints
from hope_runtime.errors import (
    InvalidRequestError,
    ModelNotFoundError,
    OptimiserError,
    TrainingDivergedError,
)
from hope_runtime.models.hope.config import HopeConfig, preset
from hope_runtime.models.hope.weights import init_weights

# As the algorithm is printed nothing decays, and its steps are as long as gradients are small.
_CHOSEN: dict[str, dict[str, Any]] = {"m3": {"average": True}}
HOW = TrainConfig(steps=6, batch_rows=4, warmup_steps=2, log_every=1, test_rows=8)
TASK = make_task("parity", longest=12, longest_tested=30)


def model(name: str = "hope", task: Task = TASK) -> HopeConfig:
    fast = {"depth": 1, "chunk_mem": 1, "chunk_other": 4, "eta_max": 2.0}
    return preset(
        name,
        vocab_size=task.vocab_size,
        d_model=16,
        n_layers=1,
        n_heads=2,
        periods=(64, 512),
        fast=fast if name == "hope" else None,
    )


def test_the_rate_warms_up_and_falls_as_a_cosine() -> None:
    how = TrainConfig(steps=101, warmup_steps=10, learning_rate=1.0, final_fraction=0.1)
    rates = [learning_rate_at(how, step) for step in range(101)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.55)
    assert rates[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(rates[10:]))


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"beta2": 1.0}, {"learning_rate": float("nan")}, {"autocast": 1}, {"seed": -1}],
)
def test_settings_without_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrainConfig(**({"steps": 1} | wrong))  # type: ignore[arg-type]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(optimizer: str, tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    def stop(step: Step) -> None:
        if step.step == 5:
            raise StoppedError

    how = replace(
        HOW, save_every=2, optimizer=optimizer, hyperparameters=_CHOSEN.get(optimizer, {})
    )
    begun = dict(init_weights(model(), how.seed).named())
    whole = train(model(), TASK, how, out=tmp_path / "whole")
    assert any(not torch.equal(tensor, begun[name]) for name, tensor in whole.weights.named())
    with pytest.raises(StoppedError):
        train(model(), TASK, how, out=tmp_path / "cut", report=stop)
    assert checkpoints.load(tmp_path / "cut").step == 4
    resumed = train(model(), TASK, how, out=tmp_path / "cut", resume=True)
    for (name, a), (_, b) in zip(whole.weights.named(), resumed.weights.named(), strict=True):
        assert torch.equal(a, b), name
    one, other = checkpoints.load(tmp_path / "whole"), checkpoints.load(tmp_path / "cut")
    assert one.optimizer_tensors.keys() == other.optimizer_tensors.keys()
    for name, tensor in one.optimizer_tensors.items():
        assert torch.equal(tensor, other.optimizer_tensors[name]), name
    lines = [log.read(tmp_path / name) for name in ("whole", "cut")]
    one_by_one = [[(step.step, step.loss) for step in of] for of in lines]
    assert one_by_one[0] == one_by_one[1]
    assert [step.step for step in lines[1]] == [1, 2, 3, 4, 5, 6]


def test_a_rule_for_matrices_leaves_everything_else_to_adam() -> None:
    weights = init_weights(model(), 0)
    optimizer = make_optimizer(dict(weights.named()), replace(HOW, optimizer="muon"))
    rule_of = {
        parameter: group["rule"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    block = weights.blocks[0]
    assert rule_of[weights.embedding] == rule_of[weights.final_norm] == "adam"
    assert rule_of[block.levels[0].gate_up] == "muon"


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"optimizer": "sgd9"}, "sgd9.*adamw, gd, momentum"),
        ({"optimizer": "muon", "hyperparameters": {"betta": 1}}, "betta"),
        ({"optimizer": "momentum", "hyperparameters": {"beta": 2.0}}, "beta"),
        ({"hyperparameters": {"beta": 0.5}}, "beta1 and beta2"),
    ],
)
def test_an_optimizer_that_does_not_exist_is_refused(wrong: dict[str, Any], complaint: str) -> None:
    with pytest.raises(OptimiserError, match=complaint):
        train(model(), TASK, replace(HOW, **wrong))


def test_a_run_neither_overwrites_nor_resumes_another_one(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        train(model(), TASK, HOW, out=tmp_path, resume=True)
    train(model(), TASK, HOW, out=tmp_path)
    with pytest.raises(InvalidRequestError, match="already contains a run"):
        train(model(), TASK, HOW, out=tmp_path)
    with pytest.raises(InvalidRequestError, match="other settings"):
        train(model(), TASK, replace(HOW, seed=1), out=tmp_path, resume=True)


def test_the_loss_falls_where_the_answer_is_simple() -> None:
    task = make_task("memorization", pairs=4, keys=4, values=4)
    seen: list[float] = []
    how = TrainConfig(steps=40, batch_rows=8, warmup_steps=5, learning_rate=1e-2)
    train(model("transformer", task), task, how, report=lambda step: seen.append(step.loss))
    assert seen[-1] < 0.2 * seen[0]


def gradient(how: TrainConfig) -> list[torch.Tensor]:
    weights = init_weights(model(), 0).to(torch.float64)
    leaves = [tensor.requires_grad_() for _, tensor in weights.named()]
    batch = TASK.batch(4, batch_generator(0, 0))
    loss = mean_loss(scores_of(model(), weights, TASK, {}, batch, how), batch, 1)
    return list(torch.autograd.grad(loss, leaves))


def test_truncation_beyond_the_text_is_the_full_gradient_and_within_it_is_not() -> None:
    full = gradient(HOW)
    for a, b in zip(full, gradient(replace(HOW, truncate_tokens=64)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    short = gradient(replace(HOW, truncate_tokens=4))
    assert any(not torch.allclose(a, b) for a, b in zip(full, short, strict=True))


def test_recomputed_activations_give_the_same_gradient() -> None:
    for a, b in zip(gradient(HOW), gradient(replace(HOW, recompute_tokens=4)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["hope", "transformer"])
def test_bfloat16_products_change_the_loss_by_rounding_only(name: str) -> None:
    losses = [
        [step.loss for step in _steps(name, replace(HOW, steps=3, autocast=autocast))]
        for autocast in (False, True)
    ]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def _steps(name: str, how: TrainConfig) -> list[Step]:
    seen: list[Step] = []
    train(model(name), TASK, how, report=seen.append)
    return seen


def test_a_loss_that_is_not_finite_names_its_step_and_keeps_the_files(tmp_path: Path) -> None:
    how = replace(HOW, learning_rate=1e30, warmup_steps=0, clip_norm=0.0, save_every=1, steps=20)
    with pytest.raises(TrainingDivergedError) as caught:
        train(model(), TASK, how, out=tmp_path)
    assert 1 < caught.value.step <= 20
    saved = checkpoints.load(tmp_path)
    assert saved.step == caught.value.step - 1
    assert len(log.read(tmp_path)) == saved.step


def test_every_test_of_the_task_is_measured() -> None:
    found = measure(train(model(), TASK, HOW), TASK, HOW)
    assert found.keys() == {"bin0", "bin1"}
    assert all(0 <= of["accuracy"] <= 1 and of["loss"] > 0 for of in found.values())


WORKER = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_loop import HOW, TASK, model
from hope_lab.train import train
train(model(), TASK, HOW, out=Path(sys.argv[2]))
"""


def test_two_processes_are_one_with_all_the_rows(tmp_path: Path) -> None:
    """One process with 4 rows a step; two with 2 each, over gloo."""
    train(model(), TASK, HOW, out=tmp_path / "one")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    here = str(Path(__file__).parent)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, here, str(tmp_path / "two")],
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    one, two = checkpoints.load(tmp_path / "one"), checkpoints.load(tmp_path / "two")
    for (name, a), (_, b) in zip(one.weights.named(), two.weights.named(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").open()]
        for name in ("one", "two")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
