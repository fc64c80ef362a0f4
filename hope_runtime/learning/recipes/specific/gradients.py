"""Gradients of a consolidation's steps, which the host does not wait for.

A CPU computes the parts of a step side by side, each of its own shape. A GPU spends such a step on
launches, thousands for a few hundred tokens. There it is one part of padded shape, captured as a
graph, whose launch is one call; the next step is launched before the losses of this one are looked
at.

Shape suffixes: E examples, M targets.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hope_runtime.graph_capture import Captured
from hope_runtime.host_copies import HostCopy
from hope_runtime.layers.lora import LoraAdapter
from hope_runtime.learning.level_trainer import LevelTrainer, joined
from hope_runtime.learning.recipes.specific.batch import PARTS, Batch, Item, share_out
from hope_runtime.learning.recipes.specific.lean import losses
from hope_runtime.learning.recipes.specific.lower_layers import Above, LowerLayers
from hope_runtime.models.decoder.weights import BaseModel

# Graphs that are kept; a consolidation has about half a dozen shapes.
GRAPHS = 24


def runs_padded(device: torch.device) -> bool:
    """Whether steps on this device are of few shapes."""
    return device.type == "cuda"


class StepLosses:
    """Nats of the worst target of each example of a step, and its gradient's norm, on the way to
    the host. `places` say where each part's examples stand in the step."""

    def __init__(self, norm: Tensor, places: Sequence[Sequence[int]], worst: list[Tensor]) -> None:
        self._places = places
        self._sizes = [len(part) for part in worst]
        self._copy = HostCopy(torch.cat([norm[None], *worst]))

    def read(self, trainer: LevelTrainer) -> list[float]:
        """The worst nats, in the items' order. Raises DivergedStateError for a gradient that is not
        finite."""
        norm, *parts = torch.split(self._copy.read(), [1, *self._sizes])
        trainer.note_norm(norm[0])
        found = [0.0] * sum(map(len, self._places))
        for places, part in zip(self._places, parts, strict=True):
            # A padded part has more examples than there are.
            for place, nats in zip(places, part.tolist(), strict=False):
                found[place] = nats
        return found


class StepGradients:
    """Gradients for one base model, whose graphs outlive consolidations. One thread at a time.

    `padded` computes on a CPU as on a GPU.
    """

    def __init__(self, model: BaseModel, *, padded: bool | None = None) -> None:
        self._model = model
        self.padded = runs_padded(model.device) if padded is None else padded
        self._static: OrderedDict[tuple[object, ...], _StaticPass] = OrderedDict()
        self._pool = torch.cuda.graph_pool_handle() if model.device.type == "cuda" else None

    @property
    def steps_ahead(self) -> int:
        """Steps that are launched before the losses of one are looked at."""
        return 1 if self.padded else 0

    def of(
        self, items: Sequence[Item], trainer: LevelTrainer, lower: LowerLayers
    ) -> tuple[list[Tensor], StepLosses]:
        """The gradient with respect to the trainer's parameters, and the losses before the step.
        The next call overwrites the gradient."""
        lower.read([item.example for item in items])
        places = share_out([len(item.example.ids) for item in items], 1 if self.padded else PARTS)
        batches = [
            Batch([items[place] for place in part], self._model.device, padded=self.padded)
            for part in places
        ]
        worst: list[Tensor] = [torch.empty(0)] * len(batches)

        def gradient(part: int) -> Sequence[Tensor]:
            above = lower.above(batches[part])
            inputs = PassInputs(above, trainer.adapter, trainer.others)
            found, worst[part] = self._pass(inputs)
            return found

        tokens = sum(batch.tokens + len(batch.prefix) for batch in batches)
        summed, norm = trainer.summed(gradient, len(batches), tokens)
        return summed, StepLosses(norm, places, worst)

    def _pass(self, inputs: PassInputs) -> tuple[Sequence[Tensor], Tensor]:
        if not self.padded:
            return gradient_of(self._model, inputs)
        # Always as a graph, also of a shape that comes once: no bit may depend on what came before.
        key = inputs.shape()
        static = self._static.get(key)
        if static is None:
            static = _StaticPass(self._model, inputs, self._pool)
            if len(self._static) >= GRAPHS:
                self._static.popitem(last=False)
            self._static[key] = static
        self._static.move_to_end(key)
        return static.run(inputs)


@dataclass(frozen=True, slots=True)
class PassInputs:
    """Inputs of a pass: a batch, the level's terms, float32 and differentiable, and those of all
    other levels, None where there are none."""

    above: Above
    adapter: LoraAdapter
    others: LoraAdapter | None

    def tensors(self) -> list[Tensor]:
        """All tensors, in a fixed order."""
        prefix = [] if self.above.prefix_PD is None else [self.above.prefix_PD]
        terms = [self.adapter] if self.others is None else [self.adapter, self.others]
        parts = [tensor for term in terms for tensor in term.tensors().values()]
        return [*self.above.batch.tensors().values(), self.above.x_ND, *prefix, *parts]

    def shape(self) -> tuple[object, ...]:
        """Shapes and sizes that a captured pass depends on."""
        above, batch = self.above, self.above.batch
        shapes = [tuple(each.shape) for each in self.tensors()]
        return (above.first, batch.longest, batch.prefix, self.others is None, *shapes)

    def copy(self) -> PassInputs:
        """The same in other tensors."""
        above = self.above
        tensors = {name: each.clone() for name, each in above.batch.tensors().items()}
        batch = replace(above.batch, **tensors)  # type: ignore[arg-type]
        prefix_PD = None if above.prefix_PD is None else above.prefix_PD.clone()
        return PassInputs(
            replace(above, batch=batch, x_ND=above.x_ND.clone(), prefix_PD=prefix_PD),
            _copy(self.adapter, learns=True),
            None if self.others is None else _copy(self.others, learns=False),
        )


class _StaticPass:
    """The gradient of one shape, over tensors that stay where they are."""

    def __init__(self, model: BaseModel, inputs: PassInputs, pool: Any) -> None:
        self._held = held = inputs.copy()
        self._captured = Captured(lambda: gradient_of(model, held), model.device, pool)

    def run(self, inputs: PassInputs) -> tuple[Sequence[Tensor], Tensor]:
        """As gradient_of, for inputs of this shape."""
        with torch.no_grad():
            for mine, theirs in zip(self._held.tensors(), inputs.tensors(), strict=True):
                mine.copy_(theirs)
        return self._captured.replay()


def _copy(adapter: LoraAdapter, *, learns: bool) -> LoraAdapter:
    parts = {name: part.detach().clone() for name, part in adapter.tensors().items()}
    return LoraAdapter(**{name: part.requires_grad_(learns) for name, part in parts.items()})


def gradient_of(model: BaseModel, inputs: PassInputs) -> tuple[Sequence[Tensor], Tensor]:
    """The gradient with respect to the tensors of the level's terms, and the worst nats of each
    example, (E,). Nothing is read back and no shape depends on a value."""
    batch = inputs.above.batch
    combined = joined(inputs.others, inputs.adapter, model.dtype)
    total, losses_M = losses(model, inputs.above, combined)
    most_E = torch.zeros(batch.examples, device=losses_M.device)
    most_E = most_E.scatter_reduce(0, batch.owners_M, losses_M, "amax", include_self=True)
    return torch.autograd.grad(total, list(inputs.adapter.tensors().values())), most_E
