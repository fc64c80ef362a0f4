"""Drift: what the figures of levels mean, probes, and gradients that are not finite."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from memories import POLICY, WINDOW, document
from torch import Tensor

from hope_runtime.errors import DivergedStateError
from hope_runtime.layers.lora import LoraAdapter, shapes
from hope_runtime.learning import Learner, learner
from hope_runtime.learning.drift import Steps, base_norm, effective_rank, level_drift
from hope_runtime.learning.probes import PROBES, Probes, write_probes
from hope_runtime.learning.sample_cache import SampleCache
from hope_runtime.learning.workers import Workers
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.fold import Boundary, observe
from hope_runtime.session.levels import Level
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.policy import LearningPolicy, LevelConfig
from hope_runtime.steps import at_once

IDS = tuple(range(300, 340))
BOUNDARY = Boundary(0, len(IDS))
MATRICES = ("gate", "up", "down")


def random_adapter(model: BaseModel, rank: int, seed: int) -> LoraAdapter:
    generator = torch.Generator().manual_seed(seed)
    return LoraAdapter(
        **{
            name: torch.randn(shape, generator=generator)
            for name, shape in shapes(model.config, rank).items()
        }
    )


def dense(adapter: LoraAdapter) -> list[Tensor]:
    """Every product B A of every layer, as a matrix."""
    tensors = adapter.tensors()
    return [
        (b @ a).double()
        for name in MATRICES
        for a, b in zip(tensors[f"{name}_a"], tensors[f"{name}_b"], strict=True)
    ]


def read(model: BaseModel, policy: LearningPolicy = POLICY) -> SessionMemory:
    memory = SessionMemory.fresh(model.fingerprint, policy)
    return observe(memory, document([IDS]), window_tokens=WINDOW)


def at_rate(rate: float) -> LearningPolicy:
    level = LevelConfig(period_tokens=1000, rank=4, learning_rate=rate)
    return LearningPolicy(name="one", levels=(level,), recipe="summed_gradient")


def test_effective_rank_is_that_of_the_dense_products(chat_model: BaseModel) -> None:
    adapter = random_adapter(chat_model, 4, 0)
    expected = []
    for product in dense(adapter):
        values = torch.linalg.svdvals(product)[:4]
        shares = values / values.sum()
        expected.append(float(torch.exp(-(shares * shares.log()).sum())))
    assert effective_rank(adapter) == pytest.approx(sum(expected) / len(expected), rel=1e-6)
    assert effective_rank(random_adapter(chat_model, 1, 1)) == pytest.approx(1.0, rel=1e-6)
    assert effective_rank(adapter.scaled(0.0)) == 0.0


def test_norms_are_those_of_the_dense_change(chat_model: BaseModel) -> None:
    old, new = random_adapter(chat_model, 4, 0), random_adapter(chat_model, 4, 1)
    norm = base_norm(chat_model)
    level = Level(LevelConfig(32, 4, 1e-2))
    steps = Steps(1, 2.0, 2.0)
    figures = level_drift(replace(level, adapter=old), replace(level, adapter=new), norm, steps)
    change = [after - before for before, after in zip(dense(old), dense(new), strict=True)]

    def relative(matrices: Sequence[Tensor]) -> float:
        return math.sqrt(sum(float(matrix.square().sum()) for matrix in matrices)) / norm

    assert figures.relative_norm == pytest.approx(relative(dense(new)), rel=1e-4)
    assert figures.update_ratio == pytest.approx(relative(change), rel=1e-4)
    assert figures.steps is steps
    assert level_drift(level, level, norm, steps).effective_rank == 0.0


def test_a_consolidation_reports_its_drift_and_the_log_can_hold_it(chat_model: BaseModel) -> None:
    after, report = at_once(Learner(chat_model).consolidate(read(chat_model), BOUNDARY))
    adapter = after.levels[0].adapter
    assert report.drift is not None
    assert adapter is not None
    assert report.drift.relative_norm == pytest.approx(adapter.norm() / base_norm(chat_model))
    assert report.drift.update_ratio == report.drift.relative_norm  # the first one
    assert 0 < report.drift.effective_rank <= 4
    assert report.drift.steps.count == 1
    assert report.drift.steps.gradient_norm == report.drift.steps.largest_gradient_norm > 0
    notes = json.loads(json.dumps(report.notes()))
    assert notes["drift"]["steps"]["gradient_norm"] == report.drift.steps.gradient_norm
    assert notes["probed"]["frozen_nats"] > 0


def test_probes_see_no_damage_where_nothing_was_changed_and_some_where_much_was(
    chat_model: BaseModel,
) -> None:
    _, still = at_once(Learner(chat_model).consolidate(read(chat_model, at_rate(0.0)), BOUNDARY))
    _, moved = at_once(Learner(chat_model).consolidate(read(chat_model, at_rate(0.5)), BOUNDARY))
    assert still.probed is not None
    assert moved.probed is not None
    assert still.probed.change_nats == pytest.approx(0.0, abs=1e-4)
    assert still.probed.divergence_nats == pytest.approx(0.0, abs=1e-4)
    assert moved.probed.change_nats > 0.1
    assert moved.probed.divergence_nats > 0.1
    assert moved.probed.frozen_nats == still.probed.frozen_nats


def test_probes_change_no_memory(chat_model: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = read(chat_model)
    measured = Learner(chat_model).consolidate_now(memory, BOUNDARY)
    nothing = Probes([], [], 0.0)

    def write(*_: object) -> Any:
        return nothing
        yield

    monkeypatch.setattr(learner, "write_probes", write)
    unmeasured, report = at_once(Learner(chat_model).consolidate(memory, BOUNDARY))
    assert report.probed is None
    assert measured.hash() == unmeasured.hash()


def test_probes_are_the_same_for_everybody(chat_model: BaseModel) -> None:
    workers = Workers(1)
    kept = SampleCache(chat_model, workers)
    first, second = (at_once(write_probes(chat_model, workers, kept, 0)) for _ in range(2))
    assert 0 < len(first.windows) <= PROBES
    assert [each.example for each in first.windows] == [each.example for each in second.windows]
    assert first.frozen_nats == second.frozen_nats


@pytest.fixture(scope="module")
def taught(chat_model: BaseModel) -> tuple[Learner, str]:
    """A Learner, and the hash of what it makes of the text."""
    one = Learner(chat_model)
    return one, one.consolidate_now(read(chat_model), BOUNDARY).hash()


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("site", range(6))
def test_a_gradient_that_is_not_finite_ends_learning_and_leaves_the_memory(
    chat_model: BaseModel,
    taught: tuple[Learner, str],
    monkeypatch: pytest.MonkeyPatch,
    site: int,
    poison: float,
) -> None:
    one, expected = taught
    memory, grad = read(chat_model), torch.autograd.grad
    before = memory.hash()

    def poisoned(*arguments: Any, **options: Any) -> Any:
        found = grad(*arguments, **options)
        found[site].view(-1)[-1] = poison
        return found

    with monkeypatch.context() as patch:
        patch.setattr(torch.autograd, "grad", poisoned)
        with pytest.raises(DivergedStateError):
            one.consolidate_now(memory, BOUNDARY)
    assert memory.hash() == before
    assert one.consolidate_now(memory, BOUNDARY).hash() == expected
