"""Each mode of knowledge transfer, where one can see the knowledge arrive."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hope_lab.transfer.direct import given_context, given_output, given_parameters
from hope_lab.transfer.flow import learn
from hope_lab.transfer.generation import compressed, generated_context, size_of, weights_from
from hope_lab.transfer.level import Level, Parameters
from hope_runtime.optim.adam import Adam
from hope_runtime.optim.gradient_descent import GradientDescent
from hope_runtime.optim.registry import RULES, make_rule


def tensors(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


# Direct, parametric


def test_what_fast_weights_hold_is_read_by_the_slow_block() -> None:
    """Eq. 26: linear attention. Its memory is a fast weight, its query projection a slow one."""
    keys, projection = torch.linalg.qr(tensors((6, 6))[0])[0], tensors((6, 6))[0]
    (values,) = tensors((6, 4))
    fast = {"M": values.mT @ keys}

    def read(slow: Parameters, fast: Parameters, x: Tensor) -> Tensor:
        return x @ slow["W_q"] @ fast["M"].mT

    # Orthogonal keys: the slow block answers with the values that only the fast weights know.
    slow = {"W_q": projection}
    queries = keys @ torch.linalg.inv(projection)
    torch.testing.assert_close(given_parameters(read, fast)(slow, queries), values)


def test_no_gradient_reaches_the_other_level() -> None:
    x, fast, slow = tensors((5, 3), (3, 3), (3, 3))
    leaf, learnt = fast.requires_grad_(), slow.requires_grad_()
    by_weights = given_parameters(lambda s, f, x: x @ f["F"] @ s["S"], {"F": leaf})
    by_output = given_output(lambda s, y, x: y @ s["S"], lambda x: x @ leaf)
    for read in (by_weights, by_output):
        found = torch.autograd.grad(read({"S": learnt}, x).square().sum(), learnt)[0]
        # The gradient with the other state held constant.
        expected = 2 * (x @ fast).detach().mT @ ((x @ fast).detach() @ slow.detach())
        torch.testing.assert_close(found, expected)
        with pytest.raises(RuntimeError, match="not have been used"):
            torch.autograd.grad(read({"S": learnt}, x).square().sum(), leaf)


def test_a_slow_block_follows_fast_output_without_learning() -> None:
    """Eq. 25: the same slow weights, trained once, serve every fast regression that comes."""
    x, target = tensors((40, 3), (40, 1))

    def fast_for(weights: Tensor) -> Tensor:
        return torch.linalg.lstsq(x[:20], x[:20] @ weights).solution

    def read(slow: Parameters, y: Tensor, x: Tensor) -> Tensor:
        return slow["gain"] * y + slow["offset"]

    level = Level({"gain": torch.zeros(1).double(), "offset": torch.ones(1).double()}, Adam(), 0.05)
    tasks = [tensors((3, 1), seed=seed)[0] for seed in range(30)]
    for step in range(300):
        weights = tasks[step % 20]
        fast = fast_for(weights)
        conditioned = given_output(read, lambda x, fast=fast: x @ fast)
        target = 2 * x @ weights - 1
        _, levels = learn(
            {"slow": level},
            lambda p, c=conditioned, t=target: (c(p["slow"], x) - t).square().mean(),
        )
        level = levels["slow"]
    for weights in tasks[20:]:
        fast = fast_for(weights)
        conditioned = given_output(read, lambda x, fast=fast: x @ fast)
        error = (conditioned(level.parameters, x) - (2 * x @ weights - 1)).square().mean()
        assert float(error) < 1e-3


# Direct, non-parametric


def test_a_context_answers_through_weights_that_never_saw_it() -> None:
    """Eq. 27: recall from the context, then a slow readout; nothing is written."""
    keys = torch.linalg.qr(tensors((8, 8))[0])[0]
    (values,) = tensors((8, 3))
    slow = {"R": torch.linalg.qr(tensors((3, 3), seed=2)[0])[0]}
    read = given_context(lambda s, y, x: y @ s["R"], keys, values, sharpness=50.0)
    torch.testing.assert_close(read(slow, keys), values @ slow["R"])
    other = given_context(lambda s, y, x: y @ s["R"], keys, values.flip(0), sharpness=50.0)
    torch.testing.assert_close(other(slow, keys), values.flip(0) @ slow["R"])


def test_a_context_is_read_as_attention_reads_it() -> None:
    queries, keys, values = tensors((4, 5), (9, 5), (9, 3))
    expected = torch.nn.functional.scaled_dot_product_attention(queries, keys, values)
    found = given_context(lambda slow, y, x: y, keys, values)({}, queries)
    torch.testing.assert_close(found, expected)


# Backpropagation


def chain(p: dict[str, Parameters], x: Tensor) -> Tensor:
    """Fast block first."""
    hidden = torch.tanh(x @ p["fast"]["w"].mT)
    return torch.tanh(hidden @ p["slow"]["w"].mT)


def two_levels(period: int) -> dict[str, Level]:
    fast, slow = tensors((8, 4), (1, 8))
    return {
        "fast": Level({"w": 0.5 * fast}, GradientDescent(), 0.05),
        "slow": Level({"w": 0.5 * slow}, GradientDescent(), 0.05, period=period),
    }


def test_19_one_flow_reaches_every_level_at_its_own_frequency() -> None:
    """The slow level's change is the sum of gradients at the fast states of that time."""
    x, y = tensors((12, 6, 4), (12, 6, 1))
    levels = two_levels(period=4)
    start = levels["slow"].parameters["w"]
    total, frozen = torch.zeros_like(start), torch.zeros_like(start)
    first_fast = levels["fast"].parameters["w"]
    for step in range(4):
        for fast, accumulated in ((levels["fast"].parameters["w"], total), (first_fast, frozen)):
            leaf = start.clone().requires_grad_()
            found = chain({"fast": {"w": fast}, "slow": {"w": leaf}}, x[step])
            accumulated += torch.autograd.grad((found - y[step]).square().sum(), leaf)[0]
        assert torch.equal(levels["slow"].parameters["w"], start)
        _, levels = learn(levels, lambda p, t=step: (chain(p, x[t]) - y[t]).square().sum())
    torch.testing.assert_close(levels["slow"].parameters["w"], start - 0.05 * total)
    assert not torch.allclose(total, frozen, rtol=1e-3)
    assert levels["fast"].state == {}
    assert (levels["fast"].steps, levels["slow"].steps) == (4, 4)


def test_what_a_fast_level_forgets_the_slow_one_still_knows() -> None:
    """The fast block is reset to its start; what flowed into the slow block remains."""
    x, truth = tensors((64, 4), (4, 1), seed=5)
    y = torch.tanh(x @ truth)

    def loss(p: dict[str, Parameters]) -> Tensor:
        return (chain(p, x) - y).square().mean()

    start = two_levels(period=4)
    levels = start
    for _ in range(400):
        _, levels = learn(levels, loss)
    untaught = {name: level.parameters for name, level in start.items()}
    taught = {name: level.parameters for name, level in levels.items()}
    reset = {**taught, "fast": untaught["fast"]}
    assert float(loss(taught)) < 0.1 * float(loss(untaught))
    assert float(loss(reset)) < 0.7 * float(loss(untaught))


# Generation


def test_a_generator_writes_the_weights_of_a_block_it_never_shared_a_gradient_with() -> None:
    """A hypernetwork learns from tasks to write a regression's weights from the task's code."""
    shapes = {"w": (1, 3), "b": (1,)}
    mixing, x = tensors((5, size_of(shapes)), (20, 3), seed=3)
    codes = tensors((40, 5), seed=4)[0]
    truths = weights_from(codes @ mixing, shapes)

    def outputs(weights: Parameters) -> Tensor:
        return (x @ weights["w"].mT + weights["b"][..., None, :])[..., 0]

    def loss(p: dict[str, Parameters], rows: slice) -> Tensor:
        weights = weights_from(codes[rows] @ p["generator"]["G"], shapes)
        wanted = outputs({name: truth[rows] for name, truth in truths.items()})
        return (outputs(weights) - wanted).square().mean()

    level = Level({"G": torch.zeros_like(mixing)}, Adam(), 0.05)
    levels = {"generator": level}
    untaught = float(loss({"generator": level.parameters}, slice(30, 40)))
    for _ in range(300):
        _, levels = learn(levels, lambda p: loss(p, slice(0, 30)))
    held_out = float(loss({"generator": levels["generator"].parameters}, slice(30, 40)))
    assert held_out < 1e-3 * untaught


@pytest.mark.parametrize("name", sorted(set(RULES) - {"dgd"}))
def test_an_optimiser_knows_what_the_architecture_generated_and_no_more(name: str) -> None:
    """Its memory after training is that of the stream of gradients alone."""
    rule, (x, y, start) = make_rule(name), tensors((9, 4), (9, 2), (2, 4))

    def loss(p: Parameters, row: int) -> Tensor:
        return (torch.tanh(x[row] @ p["w"].mT) - y[row]).square().sum()

    parameters: dict[str, Tensor] = {"w": start}
    state = rule.init(parameters)
    context = []
    for row in range(9):
        (gradients,) = generated_context(parameters, loss, [row])
        context.append(gradients)
        parameters, state = rule.update(state, gradients, parameters, 0.1)
    found = compressed(rule, context, {"w": start})
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)
    # Another architecture generates another context, and the same rule knows something else.
    other = compressed(rule, generated_context({"w": -start}, loss, range(9)), {"w": start})
    if state:
        assert any(not torch.equal(other[key], state[key]) for key in state)
