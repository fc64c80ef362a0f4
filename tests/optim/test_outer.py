"""The outer optimiser against torch's own, and what an outer loop needs besides."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hope_runtime.errors import (
    CorruptStateError,
    GradientError,
    HyperparameterError,
    UnknownRuleError,
)
from hope_runtime.optim.outer import LayerInputs, OuterOptimizer
from hope_runtime.optim.registry import RULES

SHAPES = [(3, 4), (4, 3), (6, 2)]


def parameters(dtype: torch.dtype = torch.float64, shapes: Any = SHAPES) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [tensor.to(dtype).requires_grad_() for tensor in found]


def give_gradients(tensors: list[Tensor], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for tensor in tensors:
        gradient = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        tensor.grad = gradient.to(tensor.dtype)


TORCHS: list[tuple[Any, dict[str, Any], str, dict[str, Any]]] = [
    (torch.optim.SGD, {}, "gd", {}),
    (torch.optim.SGD, {"momentum": 0.8}, "momentum", {"keep": 0.8}),
    (torch.optim.Adam, {"betas": (0.8, 0.95)}, "adam", {"beta1": 0.8, "beta2": 0.95}),
    (torch.optim.AdamW, {"weight_decay": 0.3}, "adam", {"beta2": 0.999, "weight_decay": 0.3}),
    (torch.optim.Muon, {"weight_decay": 0.1}, "muon", {"weight_decay": 0.1}),
    (
        torch.optim.Muon,
        {"weight_decay": 0, "nesterov": False, "adjust_lr_fn": "match_rms_adamw"},
        "muon",
        {"nesterov": False, "scale": "match_rms_adamw"},
    ),
]


@pytest.mark.parametrize(("theirs", "options", "rule", "own"), TORCHS)
def test_it_takes_the_steps_of_torchs(
    theirs: Any,
    options: dict[str, Any],
    rule: str,
    own: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # torch's Muon orthogonalises in bfloat16; here in float64, its polynomial untouched.
    monkeypatch.setattr(Tensor, "bfloat16", lambda tensor: tensor.clone())
    mine, others = parameters(), parameters()
    optimiser = OuterOptimizer(mine, rule, lr=0.1, **own)
    reference = theirs(others, lr=0.1, **options)
    schedules = [
        torch.optim.lr_scheduler.CosineAnnealingLR(each, T_max=12)
        for each in (optimiser, reference)
    ]
    for step in range(12):
        for each in (mine, others):
            give_gradients(each, step)
        optimiser.step()
        reference.step()
        for schedule in schedules:
            schedule.step()
        for ours, other in zip(mine, others, strict=True):
            torch.testing.assert_close(ours, other, rtol=0, atol=1e-10)
    assert not torch.allclose(mine[0], parameters()[0], rtol=0, atol=0.01)


def saved_and_loaded(state: dict[str, Any]) -> dict[str, Any]:
    """Through a file, read without executing anything."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("rule", sorted(set(RULES) - {"dgd"}))
def test_resuming_is_exact(rule: str, dtype: torch.dtype) -> None:
    shapes = [(3, 4), (5,), (), (2, 3, 2)]
    straight = parameters(dtype, shapes)
    optimiser = OuterOptimizer(straight, rule, lr=0.1, weight_decay=0.01)
    for step in range(15):
        give_gradients(straight, step)
        optimiser.step()
        if step == 6:
            resumed = [tensor.detach().clone().requires_grad_() for tensor in straight]
            state = saved_and_loaded(optimiser.state_dict())
    again = OuterOptimizer(resumed, rule, lr=0.5)
    again.load_state_dict(state)
    for step in range(7, 15):
        give_gradients(resumed, step)
        again.step()
    assert all(torch.equal(a, b) for a, b in zip(straight, resumed, strict=True))
    for index, slots in optimiser.state_dict()["state"].items():
        for name, slot in slots.items():
            other = again.state_dict()["state"][index][name]
            assert other.dtype == slot.dtype
            assert torch.equal(other, slot)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("rule", sorted(set(RULES) - {"dgd"}))
def test_a_gradient_that_is_not_finite_changes_nothing(rule: str, bad: float) -> None:
    tensors = parameters()
    groups = [{"params": tensors[:1]}, {"params": tensors[1:], "lr": 0.2}]
    optimiser = OuterOptimizer(groups, rule, lr=0.1)
    give_gradients(tensors, 0)
    optimiser.step()
    before = [tensor.detach().clone() for tensor in tensors]
    state = copy.deepcopy(optimiser.state_dict())
    give_gradients(tensors, 1)
    assert tensors[2].grad is not None
    tensors[2].grad[0, 0] = bad
    with pytest.raises(GradientError, match="parameter 1 of group 1 is not finite"):
        optimiser.step()
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))
    for index, slots in state["state"].items():
        after = optimiser.state_dict()["state"][index]
        assert all(torch.equal(after[name], slot) for name, slot in slots.items())


def test_groups_have_rules_rates_and_decays_of_their_own() -> None:
    mine, others = parameters(), parameters()
    groups = [
        {"params": mine[:1]},
        {"params": mine[1:2], "rule": "adam", "lr": 0.01},
        {"params": mine[2:], "rule": "gd", "weight_decay": 0.5},
    ]
    optimiser = OuterOptimizer(groups, "momentum", lr=0.1, keep=0.5)
    references = [
        torch.optim.SGD(others[:1], lr=0.1, momentum=0.5),
        torch.optim.Adam(others[1:2], lr=0.01, betas=(0.9, 0.99)),
    ]
    for step in range(4):
        for each in (mine, others):
            give_gradients(each, step)
        optimiser.step()
        for reference in references:
            reference.step()
        with torch.no_grad():
            assert others[2].grad is not None
            others[2].mul_(1 - 0.1 * 0.5).sub_(0.1 * others[2].grad)
    for ours, other in zip(mine, others, strict=True):
        torch.testing.assert_close(ours, other, rtol=0, atol=1e-10)


def test_closures_zero_grad_and_parameters_without_a_gradient() -> None:
    used, unused = parameters()[:2]
    optimiser = OuterOptimizer([used, unused], "adam", lr=0.1, weight_decay=0.1)
    before = unused.detach().clone()

    def closure() -> float:
        optimiser.zero_grad()
        loss = used.square().sum()
        loss.backward()
        return float(loss.detach())

    losses = [optimiser.step(closure) for _ in range(3)]
    assert losses == sorted(losses, reverse=True)
    assert torch.equal(unused, before)
    assert unused not in optimiser.state
    optimiser.zero_grad()
    assert used.grad is None


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"rule": "adem"}, UnknownRuleError),
        ({"lr": -1.0}, HyperparameterError),
        ({"lr": float("nan")}, HyperparameterError),
        ({"weight_decay": -0.1}, HyperparameterError),
        ({"beta1": 1.0}, HyperparameterError),
        ({"momentum": 0.9}, HyperparameterError),
        ({"rule": "dgd"}, HyperparameterError),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        OuterOptimizer(parameters(), **{"rule": "adam", "lr": 0.1, **options})


def test_a_rate_that_became_bad_is_refused_before_a_step() -> None:
    tensors = parameters()
    optimiser = OuterOptimizer(tensors, "gd", lr=0.1)
    give_gradients(tensors, 0)
    optimiser.param_groups[0]["lr"] = float("nan")
    with pytest.raises(HyperparameterError):
        optimiser.step()
    assert torch.equal(tensors[0], parameters()[0])


def test_a_state_that_does_not_fit_is_refused() -> None:
    tensors = parameters()
    optimiser = OuterOptimizer(tensors, "adam", lr=0.1)
    give_gradients(tensors, 0)
    optimiser.step()
    good = copy.deepcopy(optimiser.state_dict())
    missing, misshapen, foreign = (copy.deepcopy(good) for _ in range(3))
    del missing["state"][1]["second"]
    misshapen["state"][1]["second"] = torch.zeros(2)
    foreign["param_groups"][0].pop("rule")
    fewer = copy.deepcopy(good)
    fewer["param_groups"][0]["params"].pop()
    for bad in (missing, misshapen, foreign, fewer):
        with pytest.raises(CorruptStateError):
            optimiser.load_state_dict(bad)
    for index, slots in good["state"].items():
        after = optimiser.state_dict()["state"][index]
        assert all(torch.equal(after[name], slot) for name, slot in slots.items())


def test_4_the_inputs_of_a_layer_reach_dgd() -> None:
    """A mean loss over two passes of a network: each weight is the minimum of Eq. 56."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    inputs = LayerInputs(network)
    optimiser = OuterOptimizer(network.parameters(), "dgd", lr=0.3, inputs=inputs)
    batches = torch.randn(2, 5, 3, dtype=torch.float64)
    weight = network[2].weight
    start, bias = weight.detach().clone(), network[2].bias.detach().clone()
    network(batches[0])  # Outside a recording: not seen.
    losses = []
    for x in batches:
        with inputs.recording(weight=1 / 10):
            losses.append(network(x).square().sum() / 10)
    # The surprise of a token under the sum of squares is -2 y.
    with torch.no_grad():
        entering = network[:2](batches.reshape(-1, 3))
        surprise = -2 * (entering @ start.mT + bias)
    sum(losses).backward()
    slope = network[2].bias.grad.clone()
    optimiser.step()
    found = weight.detach().clone().requires_grad_()
    objective = (entering @ found.mT - surprise).square().sum() / 10 / 2
    objective = objective + (found - start).square().sum() / (2 * 0.3)
    (gradient,) = torch.autograd.grad(objective, found)
    assert float(gradient.abs().max()) < 1e-10
    torch.testing.assert_close(network[2].bias, bias - 0.3 * slope, rtol=0, atol=1e-10)


def test_a_step_forgets_the_inputs_it_used() -> None:
    """The second of two equal steps from one start is the first again."""
    network = nn.Linear(3, 2)
    inputs = LayerInputs(network)
    optimiser = OuterOptimizer(network.parameters(), "dgd", lr=0.3, inputs=inputs)
    start = copy.deepcopy(network.state_dict())
    found = []
    for _ in range(2):
        network.load_state_dict(start)
        optimiser.zero_grad()
        with inputs.recording(weight=1.0):
            network(torch.ones(1, 3)).square().sum().backward()
        optimiser.step()
        found.append(network.weight.detach().clone())
    assert torch.equal(found[0], found[1])


def test_dgd_refuses_a_step_whose_inputs_were_not_recorded() -> None:
    network = nn.Linear(3, 2)
    inputs = LayerInputs(network)
    optimiser = OuterOptimizer(network.parameters(), "dgd", lr=0.3, inputs=inputs)
    before = network.weight.detach().clone()
    network(torch.ones(1, 3)).sum().backward()
    with pytest.raises(GradientError, match="no recorded inputs"):
        optimiser.step()
    assert torch.equal(network.weight, before)
    with pytest.raises(HyperparameterError), inputs.recording(weight=0.0):
        pass
