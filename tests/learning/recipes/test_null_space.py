"""Directions that a level does not learn to read: found alike everywhere, and never written."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hope_runtime.layers.lora import LoraAdapter, initial
from hope_runtime.learning.packing import Example
from hope_runtime.learning.recipes.replay.null_space import (
    LARGEST_SHARE,
    CommonDirections,
    ConfinedSteps,
    common_directions,
)
from hope_runtime.learning.workers import Workers
from hope_runtime.models.decoder.forward import forward
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.optim.adam import Adam
from hope_runtime.optim.rule import InPlace

COUNT = 3
QUESTIONS = [
    "Where does Brisa live? In",
    "Where does Tolvan live? In",
    "Where does Kerimo live? In",
    "What does Brisa do? She",
    "What does Ulmar do? She",
]


@pytest.fixture(scope="module")
def examples(chat_model: BaseModel) -> list[Example]:
    ids = [tuple(chat_model.tokenizer.encode(text)) for text in QUESTIONS]
    return [Example(each, (False,) * (len(each) - 1) + (True,)) for each in ids]


@pytest.fixture(scope="module")
def directions(chat_model: BaseModel, examples: list[Example]) -> CommonDirections:
    return common_directions(chat_model, Workers(1), examples, COUNT, row_tokens=64)


def assert_orthonormal(rows_LKX: Tensor) -> None:
    squares = rows_LKX @ rows_LKX.mT
    expected = torch.eye(rows_LKX.shape[1]).expand_as(squares)
    torch.testing.assert_close(squares, expected, rtol=0, atol=1e-5)


def test_directions_are_orthonormal_and_few(
    chat_model: BaseModel, examples: list[Example], directions: CommonDirections
) -> None:
    """Fails when a narrow matrix would be left with nothing to read."""
    assert_orthonormal(directions.outer_LKD)
    assert_orthonormal(directions.inner_LKF)
    assert directions.outer_LKD.shape == (2, COUNT, chat_model.config.d_model)
    many = common_directions(chat_model, Workers(1), examples, 10_000, row_tokens=64)
    assert many.outer_LKD.shape[1] <= chat_model.config.d_model * LARGEST_SHARE


def test_they_hold_what_the_questions_have_in_common(
    chat_model: BaseModel, examples: list[Example], directions: CommonDirections
) -> None:
    """The first one is nearly the inputs' mean; all leave less than any others would. Fails when
    another place of the questions is read, or the weakest directions are taken."""
    seen: list[Tensor] = []
    for example in examples:
        forward(
            chat_model,
            torch.tensor([example.ids]),
            on_mlp=lambda layer, x_BTD, _: seen.append(x_BTD[0, -2]) if layer == 1 else None,
        )
    inputs_ND = torch.stack(seen)
    assert len(inputs_ND) == len(examples)
    left = inputs_ND - (inputs_ND @ directions.outer_LKD[1].mT) @ directions.outer_LKD[1]
    best = torch.linalg.svdvals(inputs_ND)[COUNT:].square().sum()
    torch.testing.assert_close(left.square().sum(), best, rtol=1e-3, atol=1e-5)


def test_the_number_of_threads_changes_no_bit(
    chat_model: BaseModel, examples: list[Example], directions: CommonDirections
) -> None:
    again = common_directions(chat_model, Workers(2), examples, COUNT, row_tokens=64)
    assert torch.equal(again.outer_LKD, directions.outer_LKD)
    assert torch.equal(again.inner_LKF, directions.inner_LKF)


def trained(
    model: BaseModel, adapter: LoraAdapter, directions: CommonDirections, *, fresh: bool
) -> LoraAdapter:
    parameters = {name: tensor.clone() for name, tensor in adapter.tensors().items()}
    changed = LoraAdapter(**parameters)
    steps = InPlace(Adam(), list(parameters.values()))
    confined = ConfinedSteps(steps, changed, directions, fresh=fresh)
    generator = torch.Generator().manual_seed(3)
    for _ in range(4):
        gradients = [torch.randn(p.shape, generator=generator) for p in parameters.values()]
        confined.step(gradients, 0.01)
    return changed


def test_a_fresh_level_reads_nothing_there(
    chat_model: BaseModel, directions: CommonDirections
) -> None:
    """Fails when Adam's own scaling brings back what was taken from a gradient."""
    before = initial(chat_model.config, 4, seed=1)
    after = trained(chat_model, before, directions, fresh=True)
    for name, rows in (
        ("gate_a", directions.outer_LKD),
        ("up_a", directions.outer_LKD),
        ("down_a", directions.inner_LKF),
    ):
        factor = after.tensors()[name]
        assert float((factor @ rows.mT).abs().max()) < 1e-5
        assert float((factor - before.tensors()[name]).abs().max()) > 1e-3
    assert float((after.gate_b - before.gate_b).abs().min()) > 0


def test_what_a_level_learnt_before_stays(
    chat_model: BaseModel, directions: CommonDirections
) -> None:
    """Only changes are confined: facts of an earlier consolidation may lie in these directions.
    Fails when the factors themselves are projected each time."""
    before = initial(chat_model.config, 4, seed=1)
    after = trained(chat_model, before, directions, fresh=False)
    old, new = before.gate_a @ directions.outer_LKD.mT, after.gate_a @ directions.outer_LKD.mT
    torch.testing.assert_close(new, old, rtol=0, atol=1e-5)
    assert float(old.abs().max()) > 1e-2
