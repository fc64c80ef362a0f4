"""Layers that a consolidation leaves as they are, read once for each text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hope_runtime.layers.lora import LoraAdapter
from hope_runtime.learning.packing import Example
from hope_runtime.learning.recipes.specific.batch import Batch, BatchTensors, Item, share_out
from hope_runtime.learning.recipes.specific.blocks import (
    BlockAttention,
    Kept,
    read_prefix,
    run_blocks,
)
from hope_runtime.learning.workers import Workers
from hope_runtime.models.decoder.adapters import adapter_strategy
from hope_runtime.models.decoder.forward import embed
from hope_runtime.models.decoder.weights import BaseModel


@dataclass(frozen=True, slots=True)
class Above:
    """Inputs of the layers from `first` on: their batch, hidden states (N, D), and those of the
    prefix, (P, D), if there is one."""

    batch: BatchTensors
    first: int
    x_ND: Tensor
    prefix_PD: Tensor | None


class LowerLayers:
    """The layers that a consolidation leaves as they are, read once for each text.

    What they make of a text is the same in every step, so each step begins above them. `first` is
    the first layer that learns, `before` are all levels' terms, in the model's dtype.
    """

    def __init__(
        self, model: BaseModel, workers: Workers, first: int, before: LoraAdapter | None
    ) -> None:
        self._model, self._workers = model, workers
        self.first, self.before = first, before
        self._strategy = adapter_strategy(before)
        self._texts: dict[tuple[tuple[int, ...], tuple[int, ...]], Tensor] = {}
        self._prefixes: dict[tuple[int, ...], tuple[Tensor, Kept]] = {}

    def read(self, examples: Sequence[Example]) -> None:
        """Reads those that were not read before, in batches that the texts alone decide."""
        missing = {_key(each): each for each in examples if _key(each) not in self._texts}
        for prefix in dict.fromkeys(prefix for prefix, _ in missing):
            if prefix and prefix not in self._prefixes:
                embedded_PD = embed(self._model, torch.tensor(prefix, device=self._model.device))
                layers = range(self.first)
                found = read_prefix(self._model, embedded_PD, self._strategy, layers)
                self._prefixes[prefix] = found
        new = list(missing.values())
        batches = [
            [new[place] for place in share] for share in share_out([len(e.ids) for e in new])
        ]
        for batch, read in zip(batches, self._workers.map(self._read, batches), strict=True):
            self._texts.update(zip(map(_key, batch), read, strict=True))

    def take(self, other: LowerLayers) -> None:
        """Knows what `other`, of the same layers and terms, has read."""
        self._texts.update(other._texts)
        self._prefixes.update(other._prefixes)

    def above(self, batch: Batch) -> Above:
        """Inputs of the layers that learn, for a batch that was read."""
        parts = [self._texts[_key(each)] for each in batch.of]
        if more := batch.padded_tokens - batch.tokens:
            parts.append(parts[0].new_zeros(more, parts[0].shape[1]))
        prefix_PD = self._prefixes[batch.prefix][0] if batch.prefix else None
        return Above(batch.tensors, self.first, torch.cat(parts), prefix_PD)

    @torch.no_grad()
    def _read(self, examples: Sequence[Example]) -> Sequence[Tensor]:
        batch = Batch([Item(each, 1.0) for each in examples], self._model.device)
        prefix = self._prefixes[batch.prefix][1] if batch.prefix else None
        x_ND = embed(self._model, batch.ids(self._model.device))
        attention = BlockAttention(self._model, batch.tensors, prefix)
        x_ND = run_blocks(self._model, x_ND, attention, self._strategy, range(self.first))
        return torch.split(x_ND, [len(each.ids) for each in examples])


def _key(example: Example) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return example.prefix, example.ids
