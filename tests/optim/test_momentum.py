"""Linear memories of gradients against their inner objectives and closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hope_runtime.optim.momentum import DeltaMomentum, Momentum, ValuedMomentum, delta_gradient


def tensors(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def written(
    rule: Momentum, memory: Tensor, gradient: Tensor, values: Tensor | None = None
) -> Tensor:
    """The rule's memory after one gradient."""
    state = {"w.memory": memory}
    if values is not None:
        state["w.values"] = values
    _, state = rule.update(state, {"w": gradient}, {"w": torch.zeros_like(memory)}, 0.1)
    return state["w.memory"]


@pytest.mark.parametrize("shape", [(4, 3), (3, 4), (5, 1)])
def test_each_rule_is_a_gradient_step_on_its_inner_objective(shape: tuple[int, int]) -> None:
    memory, gradient, values = tensors(shape, shape, (shape[0], shape[0]))
    leaf = memory.clone().requires_grad_()
    (hebbian,) = torch.autograd.grad((leaf @ gradient.mT * values).sum(), leaf)
    close(written(ValuedMomentum(keep=0.9), memory, gradient, values), 0.9 * memory - hebbian)
    objective = (leaf @ gradient.mT + values).square().sum() / 2
    (delta,) = torch.autograd.grad(objective, leaf)
    close(delta_gradient(memory, gradient, values), delta)
    rule = DeltaMomentum(keep=0.9, form="printed", valued=True)
    close(written(rule, memory, gradient, values), 0.9 * memory - delta)
    damped = delta / (1 + gradient.square().sum())
    rule = DeltaMomentum(keep=0.9, valued=True)
    close(written(rule, memory, gradient, values), 0.9 * memory - damped)


def test_values_that_are_the_identity_are_no_values() -> None:
    memory, gradient = tensors((4, 3), (4, 3))
    identity = torch.eye(4, dtype=torch.float64)
    for rule in (ValuedMomentum(), DeltaMomentum(valued=True)):
        start = rule.init({"w": torch.stack([gradient, gradient])}, batch_dims=1)
        assert torch.equal(start["w.values"], torch.stack([identity, identity]))
    close(
        written(ValuedMomentum(), memory, gradient, identity), written(Momentum(), memory, gradient)
    )
    with_values = written(DeltaMomentum(valued=True), memory, gradient, identity)
    close(with_values, written(DeltaMomentum(), memory, gradient))


def test_the_printed_forms_of_delta_momentum() -> None:
    """Eq. 49 erases on the right, the short text on the left; they differ."""
    memory, gradient = tensors((4, 3), (4, 3))
    eye3, eye4 = torch.eye(3, dtype=torch.float64), torch.eye(4, dtype=torch.float64)
    right = memory @ (0.9 * eye3 - gradient.mT @ gradient) - gradient
    left = (0.9 * eye4 - gradient @ gradient.mT) @ memory - gradient
    close(written(DeltaMomentum(keep=0.9, form="printed"), memory, gradient), right)
    close(written(DeltaMomentum(keep=0.9, form="printed_left"), memory, gradient), left)
    assert float((right - left).abs().max()) > 0.1


def test_the_proximal_form_is_exact_for_one_tokens_gradient() -> None:
    """argmin 1/2 ||m gᵀ + I||² + 1/2 ||m - m_t||², where g has rank one."""
    memory, error, x = tensors((4, 3), (4,), (3,))
    gradient = torch.outer(error, x)
    found = written(DeltaMomentum(keep=0.0), memory, gradient) + memory
    found.requires_grad_()
    identity = torch.eye(4, dtype=torch.float64)
    objective = (found @ gradient.mT + identity).square().sum() + (found - memory).square().sum()
    (slope,) = torch.autograd.grad(objective / 2, found)
    assert float(slope.abs().max()) < 1e-10


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e3])
def test_only_the_proximal_form_is_bounded_for_gradients_of_any_size(size: float) -> None:
    norms = {}
    for form in ("proximal", "printed"):
        rule = DeltaMomentum(keep=0.9, form=form)  # type: ignore[arg-type]
        memory = torch.zeros(4, 3, dtype=torch.float64)
        for seed in range(30):
            (gradient,) = tensors((4, 3), seed=seed)
            memory = written(rule, memory, size * gradient)
        norms[form] = float(memory.norm())
    # |step| <= ||g|| / (1 + ||g||²) <= 1/2 beyond the decay.
    assert norms["proximal"] < 0.5 / (1 - 0.9)
    assert (norms["printed"] > 1e6) == (size >= 1.0)


def test_rows_of_a_batch_learn_apart() -> None:
    parameter, gradient = tensors((5, 4, 3), (5, 4, 3))
    rules = (
        Momentum(),
        ValuedMomentum(),
        DeltaMomentum(valued=True),
        DeltaMomentum(form="printed_left"),
    )
    for rule in rules:
        together, state = {"w": parameter}, rule.init({"w": parameter}, batch_dims=1)
        for _ in range(2):
            together, state = rule.update(state, {"w": gradient}, together, 0.1, batch_dims=1)
        for row in range(5):
            alone, own = {"w": parameter[row]}, rule.init({"w": parameter[row]})
            for _ in range(2):
                alone, own = rule.update(own, {"w": gradient[row]}, alone, 0.1)
            close(together["w"][row], alone["w"])
