"""Transfer by initialisation: a slow level learns where a fast one starts (Eq. 28, MAML).

The fast level is written by any update rule, whose memory is part of what is unrolled. Losses are
given for a batch of tasks: parameters have a leading dimension of tasks, and a loss is (tasks,).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hope_lab.transfer.level import Parameters
from hope_runtime.optim.rule import UpdateRule

TaskLosses = Callable[[Parameters], Tensor]


def adapt(
    start: Parameters,
    support: TaskLosses,
    rule: UpdateRule,
    learning_rate: float,
    *,
    tasks: int,
    steps: int = 1,
    differentiable: bool = False,
) -> dict[str, Tensor]:
    """Each task's parameters (tasks, ...) after `steps` updates on its own `support` loss.

    With `differentiable` they are a function of `start` for autograd, gradients of the inner loss
    included. Raises GradientError.
    """
    parameters = {name: tensor.expand(tasks, *tensor.shape) for name, tensor in start.items()}
    if not differentiable:
        parameters = {name: tensor.detach() for name, tensor in parameters.items()}
    state = rule.init(parameters, batch_dims=1)
    for _ in range(steps):
        with torch.enable_grad():
            leaves = {
                name: tensor if tensor.requires_grad else tensor.requires_grad_()
                for name, tensor in parameters.items()
            }
            gradients = torch.autograd.grad(
                support(leaves).sum(),
                list(leaves.values()),
                create_graph=differentiable,
                materialize_grads=True,
            )
        with torch.set_grad_enabled(differentiable):
            parameters, state = rule.update(
                state,
                dict(zip(leaves, gradients, strict=True)),
                parameters,
                learning_rate,
                batch_dims=1,
            )
        if not differentiable:
            parameters = {name: tensor.detach() for name, tensor in parameters.items()}
    return parameters


def initialisation_gradients(
    start: Parameters,
    support: TaskLosses,
    query: TaskLosses,
    rule: UpdateRule,
    learning_rate: float,
    *,
    tasks: int,
    steps: int = 1,
    second_order: bool = True,
) -> tuple[float, dict[str, Tensor]]:
    """Mean `query` loss after adapting, and its gradient with respect to `start`.

    Second order differentiates through the updates (MAML); first order takes the gradient where
    they end as if it had been taken at the start, and keeps no graph (FOMAML). The gradients are
    for any outer rule. Raises GradientError.
    """
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in start.items()}
    adapted = adapt(
        leaves,
        support,
        rule,
        learning_rate,
        tasks=tasks,
        steps=steps,
        differentiable=second_order,
    )
    with torch.enable_grad():
        if not second_order:
            adapted = {name: tensor.requires_grad_() for name, tensor in adapted.items()}
        loss = query(adapted).mean()
        wanted = leaves if second_order else adapted
        found = torch.autograd.grad(loss, list(wanted.values()), materialize_grads=True)
    gradients = dict(zip(wanted, found, strict=True))
    if not second_order:
        gradients = {name: gradient.sum(0) for name, gradient in gradients.items()}
    return float(loss.detach()), gradients
