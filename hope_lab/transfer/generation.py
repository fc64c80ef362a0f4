"""Transfer by generation: one level makes the weights, or the context, of another.

Weights: a hypernetwork's output vector becomes the parameters of the block that it serves.
Context: an architecture generates the gradients that its optimiser learns from, so the optimiser
is a level whose data set is that stream and whose memory is all that it keeps of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from hope_lab.transfer.level import Parameters
from hope_runtime.optim.rule import State, UpdateRule

Example = TypeVar("Example")


def size_of(shapes: Mapping[str, Sequence[int]]) -> int:
    """Length of the vector that `weights_from` cuts into parameters of these shapes."""
    return sum(math.prod(shape) for shape in shapes.values())


def weights_from(vector: Tensor, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Parameters cut out of a generator's output (*rows, size), each (*rows, *shape), as views.

    Differentiable: a loss of the block that has these weights teaches the generator.
    """
    assert vector.shape[-1] == size_of(shapes)
    parts = torch.split(vector, [math.prod(shape) for shape in shapes.values()], dim=-1)
    rows = vector.shape[:-1]
    return {
        name: part.reshape(*rows, *shape)
        for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }


def generated_context(
    parameters: Parameters,
    loss: Callable[[Parameters, Example], Tensor],
    examples: Iterable[Example],
) -> Iterator[dict[str, Tensor]]:
    """The gradients that an architecture at these parameters generates, one for each example."""
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in parameters.items()}
    for example in examples:
        with torch.enable_grad():
            value = loss(leaves, example)
            found = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
        yield dict(zip(leaves, found, strict=True))


def compressed(
    rule: UpdateRule, context: Iterable[Mapping[str, Tensor]], shapes_of: Parameters
) -> State:
    """State of an optimiser's memory after a context of gradients, whatever generated them.

    `shapes_of` gives shapes and dtypes alone. Not for rules that need inputs: they keep no memory.
    """
    parameters = {name: torch.zeros_like(tensor) for name, tensor in shapes_of.items()}
    state = rule.init(parameters)
    for gradients in context:
        _, state = rule.update(state, gradients, parameters, learning_rate=0.0)
    return state
