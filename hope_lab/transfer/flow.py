"""Transfer by backpropagation: one gradient flow through all levels, a frequency each.

The forward pass is that of direct transfer. In the backward pass every level receives its part of
the same gradient, at the states that the others have at that step, and adds it up until its own
boundary. This is the Continuum Memory System over any levels and any update rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from hope_lab.transfer.level import Level, Parameters


def learn(
    levels: Mapping[str, Level], loss: Callable[[Mapping[str, Parameters]], Tensor]
) -> tuple[float, dict[str, Level]]:
    """One step of all levels: the loss before it, and the levels after it.

    `loss` maps every level's parameters, by the level's name, to a scalar. Raises GradientError
    when a gradient is not finite; a parameter that the loss does not use gets a zero one. For
    rules that need inputs, call Level.receive.
    """
    leaves = {
        name: {key: tensor.detach().requires_grad_() for key, tensor in level.parameters.items()}
        for name, level in levels.items()
    }
    paths = [(name, key) for name, own in leaves.items() for key in own]
    with torch.enable_grad():
        value = loss(leaves)
        found = torch.autograd.grad(
            value, [leaves[name][key] for name, key in paths], materialize_grads=True
        )
    gradients: dict[str, dict[str, Tensor]] = {name: {} for name in levels}
    for (name, key), gradient in zip(paths, found, strict=True):
        gradients[name][key] = gradient
    return float(value.detach()), {n: level.receive(gradients[n]) for n, level in levels.items()}
