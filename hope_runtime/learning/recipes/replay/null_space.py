"""Directions that a level's inputs have in common whoever is asked about: it must not read them.

At the places where an answer begins, most of what an MLP reads is the same for every question of a
kind: that a question was asked, what it asks for, that a name came before. A level that reads those
directions gives the taught answer to everybody. So the strongest of them, found by reading the
contrasts (strangers.py) with the base, are taken out of every step of the level's first factors:
what is left for it to read is what tells one name from another. Figures: docs/evaluation.md.

The idea of writing only where other inputs do not reach is that of null-space editing; here the
inputs to be spared are the session's own contrasts, and factors learnt before stay as they are.

Shape suffixes: L layers, D model width, F MLP width, R rank, K directions, N inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from hope_runtime.layers.lora import LoraAdapter
from hope_runtime.learning.packing import Example, in_batches, pack
from hope_runtime.learning.workers import Workers
from hope_runtime.models.decoder.forward import forward
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.optim.rule import InPlace

# Inputs from which directions are found: a few for each of them.
MOST_INPUTS = 512
# Of a matrix's inputs at most this share is taken away.
LARGEST_SHARE = 1 / 8


@dataclass(frozen=True, slots=True)
class CommonDirections:
    """Orthonormal rows: of the inputs of gate and up (L, K, D), and of down (L, K', F); float32."""

    outer_LKD: Tensor
    inner_LKF: Tensor

    def removed(self, name: str, change_LRX: Tensor) -> Tensor:
        """A change of the first factor `name` without what reads these directions."""
        directions = self.inner_LKF if name == "down_a" else self.outer_LKD
        return change_LRX - (change_LRX @ directions.mT) @ directions


class ConfinedSteps:
    """An optimiser's steps on a level's factors, without what would read `directions`.

    A fresh level's random first factors lose their part in them at once; what a level learnt
    before, under other contrasts, stays.
    """

    @torch.no_grad()
    def __init__(
        self, steps: InPlace, adapter: LoraAdapter, directions: CommonDirections, *, fresh: bool
    ) -> None:
        self._steps = steps
        self._directions = directions
        self._first = {
            name: tensor for name, tensor in adapter.tensors().items() if name.endswith("_a")
        }
        self._second = {
            name: tensor for name, tensor in adapter.tensors().items() if name.endswith("_b")
        }
        if fresh:
            for name, tensor in self._first.items():
                tensor.copy_(directions.removed(name, tensor))

    @torch.no_grad()
    def step(
        self, gradients: Sequence[Tensor], learning_rate: float, second_rate: float = 1.0
    ) -> None:
        """One update, as `InPlace.apply` but for the directions. Second factors move `second_rate`
        times as far."""
        before = {name: tensor.clone() for name, tensor in self._first.items()}
        second = {} if second_rate == 1 else {n: t.clone() for n, t in self._second.items()}
        self._steps.apply(gradients, learning_rate)
        for name, old in second.items():
            tensor = self._second[name]
            tensor.copy_(old + second_rate * (tensor - old))
        for name, tensor in self._first.items():
            old = before[name]
            tensor.copy_(old + self._directions.removed(name, tensor - old))


@torch.no_grad()
def common_directions(
    model: BaseModel,
    workers: Workers,
    examples: Sequence[Example],
    count: int,
    *,
    row_tokens: int,
) -> CommonDirections:
    """The `count` strongest directions of what the base's MLPs read where `examples` are predicted.

    Strongest by the uncentred second moment: what all have in common comes first.
    """
    batches = in_batches(examples)
    read = workers.map(partial(read_inputs, model, row_tokens=row_tokens), batches)

    def of_layers(inputs: Iterable[list[Tensor]]) -> Tensor:
        layers = [torch.cat(parts) for parts in zip(*inputs, strict=True)]
        most = min(count, int(layers[0].shape[1] * LARGEST_SHARE))
        # Evenly spread over the examples, so that no statement has more of a say.
        chosen = torch.linspace(0, len(layers[0]) - 1, min(MOST_INPUTS, len(layers[0]))).long()
        found = workers.map(partial(strongest, count=most), [each[chosen] for each in layers])
        return torch.stack(found).to(model.device)

    return CommonDirections(
        of_layers(outer for outer, _ in read), of_layers(inner for _, inner in read)
    )


@torch.no_grad()
def read_inputs(
    model: BaseModel, examples: Sequence[Example], *, row_tokens: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs of gate and up, and of down, at every predictor: (N, D) and (N, F) a layer."""
    packed = pack(examples, row_tokens=row_tokens)
    outer: list[Tensor] = []
    inner: list[Tensor] = []

    def seen(_: int, x_BTD: Tensor, h_BTF: Tensor) -> None:
        for kept, inputs in ((outer, x_BTD), (inner, h_BTF)):
            kept.append(inputs.flatten(0, 1)[predictors_N].float().cpu())

    predictors_N = packed.predictors_N.to(model.device)
    forward(
        model,
        packed.ids_BT.to(model.device),
        positions_BT=packed.positions_BT.to(model.device),
        mask_BTS=packed.mask_BTT.to(model.device),
        on_mlp=seen,
    )
    return outer, inner


def strongest(inputs_NX: Tensor, *, count: int) -> Tensor:
    """Orthonormal rows (K, X), K at most `count`: leading right singular vectors of the inputs."""
    # In double precision: squares of inputs whose few largest outweigh all others by far.
    inputs = inputs_NX.double()
    if inputs.shape[0] <= inputs.shape[1]:
        left: Tensor = torch.linalg.eigh(inputs @ inputs.mT).eigenvectors[:, -count:]
        rows: Tensor = torch.linalg.qr(inputs.mT @ left).Q.mT
        return rows.float()
    right: Tensor = torch.linalg.eigh(inputs.mT @ inputs).eigenvectors[:, -count:]
    return right.mT.float()
