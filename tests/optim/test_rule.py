"""What holds for every rule of the registry, whatever the shapes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from hope_runtime.errors import (
    CorruptStateError,
    GradientError,
    HyperparameterError,
    UnknownRuleError,
)
from hope_runtime.optim.registry import RULES, make_rule
from hope_runtime.optim.rule import as_matrix

SHAPES = st.dictionaries(
    st.sampled_from(["w", "v", "blocks.0.mlp.up"]),
    st.lists(st.integers(1, 4), max_size=3).map(tuple),
    min_size=1,
)
NAMES = sorted(RULES)


def options(name: str) -> dict[str, Any]:
    """What lets few steps reach every branch."""
    return {"m3": {"period": 2}, "dmgd": {"hidden": 3}}.get(name, {})


def draw(
    shapes: dict[str, tuple[int, ...]], seed: int, rows: tuple[int, ...] = ()
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn((*rows, *shape), generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }


def inputs_for(shapes: dict[str, tuple[int, ...]], rows: tuple[int, ...] = ()) -> dict[str, Tensor]:
    matrices = {name: (2, shape[1]) for name, shape in shapes.items() if len(shape) == 2}
    return draw(matrices, 77, rows)


@settings(max_examples=80, deadline=None)
@given(name=st.sampled_from(NAMES), shapes=SHAPES, seed=st.integers(0, 99))
def test_an_update_is_pure_and_resumes_from_stored_tensors(
    name: str, shapes: dict[str, tuple[int, ...]], seed: int
) -> None:
    rule, inputs = make_rule(name, options(name)), inputs_for(shapes)
    parameters = draw(shapes, seed)
    state = rule.init(parameters)
    for step in range(4):
        gradients = draw(shapes, seed + step)
        kept = {k: v.clone() for k, v in {**parameters, **state, **gradients}.items()}
        new, new_state = rule.update(state, gradients, parameters, 0.1, inputs=inputs)
        for key, value in {**parameters, **state, **gradients}.items():
            assert torch.equal(value, kept[key])
        assert {k: v.shape for k, v in new.items()} == {k: v.shape for k, v in parameters.items()}
        assert {k: v.shape for k, v in new_state.items()} == {k: v.shape for k, v in state.items()}
        stored = load(save(state)) if state else {}
        again, again_state = rule.update(stored, gradients, parameters, 0.1, inputs=inputs)
        assert all(torch.equal(again[key], new[key]) for key in new)
        assert all(torch.equal(again_state[key], new_state[key]) for key in new_state)
        parameters, state = new, new_state
        assert all(bool(tensor.isfinite().all()) for tensor in parameters.values())


@settings(max_examples=80, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    shapes=SHAPES,
    rows=st.sampled_from([(3,), (2, 2)]),
    seed=st.integers(0, 99),
)
def test_rows_of_a_batch_learn_apart(
    name: str, shapes: dict[str, tuple[int, ...]], rows: tuple[int, ...], seed: int
) -> None:
    """A row of sessions is what each would be alone; the count is theirs together."""
    rule, inputs = make_rule(name, options(name)), inputs_for(shapes, rows)
    parameters = draw(shapes, seed, rows)
    chosen = tuple(size - 1 for size in rows)
    alone = {key: value[chosen] for key, value in parameters.items()}
    state, own = rule.init(parameters, len(rows)), rule.init(alone)
    for step in range(4):
        gradients = draw(shapes, seed + step + 1, rows)
        parameters, state = rule.update(
            state, gradients, parameters, 0.1, batch_dims=len(rows), inputs=inputs
        )
        alone, own = rule.update(
            own,
            {key: value[chosen] for key, value in gradients.items()},
            alone,
            0.1,
            inputs={key: value[chosen] for key, value in inputs.items()},
        )
    for key, value in alone.items():
        torch.testing.assert_close(parameters[key][chosen], value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_a_rate_of_zero_moves_nothing_and_an_update_can_be_differentiated(name: str) -> None:
    rule, shapes = make_rule(name, options(name)), {"w": (3, 2)}
    parameters, inputs = draw(shapes, 0), inputs_for(shapes)
    state = rule.init(parameters)
    for step in range(3):
        new, state = rule.update(state, draw(shapes, step), parameters, 0.0, inputs=inputs)
        torch.testing.assert_close(new["w"], parameters["w"], rtol=0, atol=1e-15)
    start = rule.init(parameters)

    def moved(gradient: Tensor) -> Tensor:
        found, _ = rule.update(start, {"w": gradient}, parameters, 0.1, inputs=inputs)
        return found["w"]

    gradient = draw(shapes, 5)["w"].requires_grad_()
    assert torch.autograd.gradcheck(moved, (gradient,))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_slots_are_at_least_float32_and_parameters_keep_their_dtype(
    name: str, dtype: torch.dtype
) -> None:
    rule, shapes = make_rule(name, options(name)), {"w": (3, 2), "b": (3,)}
    parameters = {key: value.to(dtype) for key, value in draw(shapes, 0).items()}
    inputs = {"w": torch.ones(1, 2, dtype=dtype)}
    state = rule.init(parameters)
    for _ in range(2):
        parameters, state = rule.update(state, parameters, parameters, 0.1, inputs=inputs)
    assert {tensor.dtype for tensor in parameters.values()} == {dtype}
    assert {slot.dtype for slot in state.values()} <= {torch.float32, torch.int64}


@pytest.mark.parametrize("name", NAMES)
def test_what_does_not_fit_is_refused(name: str) -> None:
    rule, shapes = make_rule(name, options(name)), {"w": (3, 2), "b": (3,)}
    parameters, gradients, inputs = draw(shapes, 0), draw(shapes, 1), inputs_for(shapes)
    state = rule.init(parameters)
    _, state = rule.update(state, gradients, parameters, 0.1, inputs=inputs)
    bad = gradients["b"].clone()
    bad[1] = math.nan
    for wrong in (
        {**gradients, "b": bad},
        {**gradients, "b": bad.fill_(math.inf)},
        {"w": gradients["w"]},
        {**gradients, "c": gradients["b"]},
        {**gradients, "b": gradients["b"][:2]},
        {**gradients, "b": torch.ones(3, dtype=torch.int64)},
    ):
        with pytest.raises(GradientError):
            rule.update(state, wrong, parameters, 0.1, inputs=inputs)
    with pytest.raises(GradientError, match="fewer dimensions"):
        rule.update(state, gradients, parameters, 0.1, inputs=inputs, batch_dims=2)
    for rate in (-0.1, math.nan, math.inf):
        with pytest.raises(HyperparameterError, match="learning_rate"):
            rule.update(state, gradients, parameters, rate, inputs=inputs)
    odd_states: list[dict[str, Tensor]] = [{**state, "w.more": torch.zeros(1)}]
    if state:
        first = next(iter(state))
        odd_states.append({key: value for key, value in state.items() if key != first})
        odd_states.append({**state, first: torch.zeros(9, 9)})
    for odd in odd_states:
        with pytest.raises(CorruptStateError):
            rule.update(odd, gradients, parameters, 0.1, inputs=inputs)


@pytest.mark.parametrize(
    ("name", "hyperparameters"),
    [
        ("momentum", {"keep": 1.0}),
        ("momentum", {"keep": -0.1}),
        ("momentum", {"keep": math.nan}),
        ("momentum", {"keep": "0.9"}),
        ("momentum", {"keep": True}),
        ("momentum", {"beta": 0.9}),
        ("gd", {"keep": 0.9}),
        ("delta_momentum", {"form": "left"}),
        ("dmgd", {"hidden": -1}),
        ("dmgd", {"hidden": 2.0}),
        ("dmgd", {"feature": "square"}),
        ("dmgd", {"inner_rate": 0.0}),
        ("dmgd", {"output": None}),
        ("adam", {"beta1": 1.0}),
        ("adam", {"beta2": math.inf}),
        ("adam", {"epsilon": 0.0}),
        ("elementwise", {"regularisation": -1.0}),
        ("muon", {"beta": 1.5}),
        ("muon", {"polynomial": "septic"}),
        ("muon", {"newton_schulz_steps": 0}),
        ("m3", {"alpha": -0.1}),
        ("m3", {"period": 0}),
        ("m3", {"beta3": 1.0}),
    ],
)
def test_bad_hyperparameters_are_refused(name: str, hyperparameters: dict[str, Any]) -> None:
    with pytest.raises(HyperparameterError, match=next(iter(hyperparameters))):
        make_rule(name, hyperparameters)


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(
        UnknownRuleError, match="update rule 'muom' does not exist; available rules: gd, dgd,"
    ):
        make_rule("muom")


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_is_made_by_its_name(name: str) -> None:
    assert type(make_rule(name)) is RULES[name]
    assert make_rule(name) == make_rule(name, {})


def test_tensors_as_matrices() -> None:
    shapes = {(): (1, 1), (5,): (5, 1), (2, 3): (2, 3), (2, 3, 4): (2, 12), (0, 3): (0, 3)}
    for shape, expected in shapes.items():
        assert as_matrix(torch.zeros(shape), 0).shape == expected
        assert as_matrix(torch.zeros(7, 6, *shape), 2).shape == (7, 6, *expected)
