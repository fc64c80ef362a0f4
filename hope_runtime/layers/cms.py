"""Full-rank Continuum Memory System: MLPs that change at different frequencies, each by Eq. 71.

A level is one MLP in every block that has it. At a multiple of its period C, counted in learnable
tokens, and nowhere else, it takes one step: theta <- theta - eta f(G), where G is the *sum* over
the chunk of the gradients of next-token prediction, and f the error term of any optimiser (plain
gradient descent is f(G) = G). For a linear f the paper's sum of f over tokens is f of the sum; for
others f sees the sum, which is our reading. Faster levels change inside a slower one's chunk, so G
is added up segment by segment, each under the weights of its time (stream.py does).

session/levels.py holds the low-rank levels of a served decoder; both share the arithmetic of
periods. Every row (session) has its own weights, and nothing here mixes rows.

Shape suffixes: B rows, T tokens, D model width, F units of a level's MLP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as nnf
from torch import Tensor

from hope_runtime.layers.norm import rms_norm

Variant = Literal["sequential", "nested", "independent"]
# Of one level: gate_up and down of each block that has it, in the blocks' order.
Theta = tuple[Tensor, ...]


class UpdateRule(Protocol):
    """f of Eq. 71: turns the summed gradient of one tensor into its update, row by row.

    Tensors are (B, ...) with one row a session; no row may see another. `step` is pure.
    """

    def init(self, parameter: Tensor) -> tuple[Tensor, ...]:
        """The optimiser's own memory of one tensor, (B, ...) each, before its first step."""
        ...

    def step(
        self, gradient: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The update, of the gradient's shape, to be scaled by eta and subtracted; new state."""
        ...


class GradientDescent:
    """f is the gradient itself: the default, and the case in which Eq. 71 is exact."""

    def init(self, parameter: Tensor) -> tuple[Tensor, ...]:
        """No memory."""
        return ()

    def step(
        self, gradient: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The gradient itself."""
        return gradient, state


@dataclass(frozen=True, slots=True)
class LevelWeights:
    """One level's MLP in one block: norm (D,), gate_up (2F, D), down (D, F).

    The norm is static; gate_up and down are theta_0 of the level.
    """

    norm: Tensor
    gate_up: Tensor
    down: Tensor


def chain(
    x_BTD: Tensor,
    levels: Sequence[LevelWeights],
    thetas: Sequence[Theta | None],
    variant: Variant,
    mix_L: Tensor | None,
    eps: float,
) -> Tensor:
    """A block's levels from fast to slow, each with its residual; (B, T, D) -> (B, T, D).

    Sequential and nested levels read what the faster ones add to the stream (Eq. 70). Independent
    ones read the same x and are summed with learned weights, `mix_L` (Eq. 74). `thetas` are the
    rows' own (B, 2F, D) and (B, D, F), or None for theta_0.
    """
    if variant == "independent":
        assert mix_L is not None
        total = x_BTD
        for weight, level, theta in zip(mix_L, levels, thetas, strict=True):
            total = total + weight * _mlp(x_BTD, level, theta, eps)
        return total
    for level, theta in zip(levels, thetas, strict=True):
        x_BTD = x_BTD + _mlp(x_BTD, level, theta, eps)
    return x_BTD


def _mlp(x_BTD: Tensor, level: LevelWeights, theta: Theta | None, eps: float) -> Tensor:
    gate_up, down = (level.gate_up, level.down) if theta is None else theta
    gate_BTF, up_BTF = _product(rms_norm(x_BTD, level.norm, eps), gate_up).chunk(2, dim=-1)
    return _product(nnf.silu(gate_BTF) * up_BTF, down)


def _product(x_BTI: Tensor, weight: Tensor) -> Tensor:
    """x Wᵀ for shared weights (O, I), or each row's own (B, O, I): (B, T, I) -> (B, T, O)."""
    if weight.dim() == 3 and x_BTI.shape[0] > 1 and x_BTI.shape[1] == 1:
        # Read as W xᵀ, each row's weights pass by once and in order.
        return (weight @ x_BTI.mT).mT
    return x_BTI @ weight.mT


@dataclass(frozen=True, slots=True)
class LevelState:
    """State of one level of B sessions: what it has learnt, and the gradients of its unfinished
    chunk.

    theta: the rows' own weights, or None while no row has changed (exactly theta_0).
    gathered: sums of gradients since each row's last boundary, of theta's shapes, or None for zero.
    optimiser: f's own memory, a tuple a tensor; empty until f first steps.
    updates_B: boundaries passed; int64 on the CPU.
    """

    theta: Theta | None
    gathered: Theta | None
    optimiser: tuple[tuple[Tensor, ...], ...]
    updates_B: Tensor


def gather(state: LevelState, gradient: Theta) -> LevelState:
    """The level with a segment's gradients added."""
    if state.gathered is not None:
        gradient = tuple(a + b for a, b in zip(state.gathered, gradient, strict=True))
    return LevelState(state.theta, gradient, state.optimiser, state.updates_B)


def update(
    state: LevelState, initial: Theta, rule: UpdateRule, learning_rate: float, due_B: Tensor
) -> LevelState:
    """Eq. 71 at a boundary of the rows that `due_B` names (bool, CPU); others stay as they are.

    `initial` is theta_0, without rows. A row that is due and has gathered nothing counts its
    boundary and keeps its weights.
    """
    if not bool(due_B.any()):
        return state
    updates_B = state.updates_B + due_B
    if state.gathered is None:
        return LevelState(state.theta, None, state.optimiser, updates_B)
    rows = len(due_B)
    theta = state.theta or tuple(tensor.expand(rows, *tensor.shape) for tensor in initial)
    memory = state.optimiser or tuple(rule.init(tensor) for tensor in theta)
    keep = None if bool(due_B.all()) else ~due_B.to(initial[0].device)
    new_theta, new_memory, left = [], [], []
    for tensor, gathered, of in zip(theta, state.gathered, memory, strict=True):
        change, after = rule.step(gathered, of)
        new_theta.append(_kept(keep, tensor, torch.sub(tensor, change, alpha=learning_rate)))
        new_memory.append(tuple(_kept(keep, a, b) for a, b in zip(of, after, strict=True)))
        left.append(gathered if keep is None else _kept(keep, gathered, torch.zeros_like(gathered)))
    return LevelState(
        tuple(new_theta), None if keep is None else tuple(left), tuple(new_memory), updates_B
    )


def restart(state: LevelState, initial: Theta, rule: UpdateRule, due_B: Tensor) -> LevelState:
    """Eq. 72: the rows whose slower neighbour has come to its boundary begin again at theta_0."""
    if state.theta is None or not bool(due_B.any()):
        return state
    if bool(due_B.all()):
        return LevelState(None, None, (), state.updates_B)
    keep = ~due_B.to(initial[0].device)
    rows = len(due_B)
    fresh = tuple(tensor.expand(rows, *tensor.shape) for tensor in initial)
    theta = tuple(_kept(keep, a, b) for a, b in zip(state.theta, fresh, strict=True))
    gathered = state.gathered and tuple(
        _kept(keep, tensor, torch.zeros_like(tensor)) for tensor in state.gathered
    )
    optimiser = tuple(
        tuple(_kept(keep, a, b) for a, b in zip(of, rule.init(tensor), strict=True))
        for of, tensor in zip(state.optimiser, fresh, strict=True)
    )
    return LevelState(theta, gathered, optimiser, state.updates_B)


def _kept(keep_B: Tensor | None, old: Tensor, new: Tensor) -> Tensor:
    """`new`, but the old rows where `keep_B` says so. A choice, not a product: NaN stays put."""
    if keep_B is None:
        return new
    return torch.where(keep_B.view(-1, *(1,) * (new.dim() - 1)), old, new)
