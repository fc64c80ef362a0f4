"""A level of any rule: boundaries, sums, rows, and states that are stored and restored."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from hope_lab.transfer.level import Level
from hope_runtime.errors import CorruptStateError, GradientError, HyperparameterError
from hope_runtime.optim.gradient_descent import DeltaGradientDescent, GradientDescent
from hope_runtime.optim.registry import RULES, make_rule

SHAPES = {"w": (3, 2), "b": (3,)}


def draw(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in SHAPES.items()
    }


def inputs(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1000 + seed)
    return {"w": torch.randn(2, 2, generator=generator, dtype=torch.float64)}


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(sorted(RULES)), period=st.integers(1, 4), stop=st.integers(0, 11))
def test_a_level_resumes_from_its_stored_tensors(name: str, period: int, stop: int) -> None:
    fresh = Level(draw(0), make_rule(name), 0.1, period)
    straight = resumed = fresh
    for step in range(11):
        if step == stop:
            resumed = fresh.restored(load(save(resumed.tensors())))
        straight = straight.receive(draw(step), inputs(step))
        resumed = resumed.receive(draw(step), inputs(step))
    found, expected = resumed.tensors(), straight.tensors()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_13_14_a_level_changes_at_multiples_by_the_sum_of_its_gradients() -> None:
    level = Level(draw(0), GradientDescent(), 0.1, period=3)
    for step in range(1, 11):
        before = level
        level = level.receive(draw(step))
        changed = not torch.equal(level.parameters["w"], before.parameters["w"])
        assert changed == (step % 3 == 0)
    total = sum(draw(step)["w"] for step in range(1, 10))
    torch.testing.assert_close(level.parameters["w"], draw(0)["w"] - 0.1 * total)


def test_the_inputs_of_a_whole_period_reach_its_rule() -> None:
    level = Level(draw(0), DeltaGradientDescent(), 0.1, period=2)
    for step in (1, 2):
        level = level.receive(draw(step), inputs(step))
    expected, _ = DeltaGradientDescent().update(
        {},
        {name: draw(1)[name] + draw(2)[name] for name in SHAPES},
        draw(0),
        0.1,
        inputs={"w": torch.cat((inputs(1)["w"], inputs(2)["w"]))},
    )
    assert torch.equal(level.parameters["w"], expected["w"])
    assert not level.inputs


@pytest.mark.parametrize("period", [1, 2])
def test_a_refused_gradient_leaves_the_level_as_it_was(period: int) -> None:
    level = Level(draw(0), make_rule("adam"), 0.1, period).receive(draw(1))
    before = {name: tensor.clone() for name, tensor in level.tensors().items()}
    bad = draw(2)
    bad["b"][0] = math.nan
    for wrong in (bad, {"w": bad["w"]}):
        with pytest.raises(GradientError):
            level.receive(wrong)
    assert all(torch.equal(tensor, before[name]) for name, tensor in level.tensors().items())


@pytest.mark.parametrize("change", [{"period": 0}, {"learning_rate": math.nan}])
def test_bad_settings_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(HyperparameterError):
        replace(Level(draw(0), GradientDescent(), 0.1), **change)


def test_tensors_of_something_else_are_refused() -> None:
    level = Level(draw(0), make_rule("adam"), 0.1, period=2).receive(draw(1))
    good = level.tensors()
    for bad in (
        {**good, "more": torch.zeros(1)},
        {k: v for k, v in good.items() if k != "steps"},
        {k: v for k, v in good.items() if k != "parameters.b"},
        {k: v for k, v in good.items() if k != "optimiser.b.first"},
        {k: v for k, v in good.items() if k != "summed.b"},
        {**good, "parameters.b": torch.zeros(4)},
        {**good, "summed.b": torch.zeros(4)},
    ):
        with pytest.raises(CorruptStateError):
            level.restored(bad)
