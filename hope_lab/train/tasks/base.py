"""Interface of a training task: batches as a function of a seed, and their scores.

Knows nothing of models or optimisers. Targets are one of two kinds: the next token's id, scored by
cross-entropy, or the set of symbols that may come next, scored symbol by symbol.

Shape suffixes: B rows, T tokens, V vocabulary, D model width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as nnf
from torch import Tensor

from hope_runtime.models.hope.config import HopeConfig
from hope_runtime.models.hope.model import logits
from hope_runtime.models.hope.weights import HopeWeights
from hope_runtime.tokenizer import Tokenizer

Readout = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Batch:
    """ids_BT (int64); targets (B, S) int64 or (B, S, V) bool; counted (B, S) bool.

    S is T, except where a task reads its answer out in another way (`Task.scores`). Places that do
    not count have any target.
    """

    ids_BT: Tensor
    targets: Tensor
    counted: Tensor

    def rows(self, chosen: slice) -> Batch:
        """Some of the rows."""
        return Batch(self.ids_BT[chosen], self.targets[chosen], self.counted[chosen])

    def to(self, device: torch.device | str) -> Batch:
        return Batch(self.ids_BT.to(device), self.targets.to(device), self.counted.to(device))


class Task(Protocol):
    """A source of batches."""

    @property
    def name(self) -> str: ...

    @property
    def vocab_size(self) -> int:
        """Ids lie in [0, vocab_size)."""
        ...

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer; None when the ids do not stand for text."""
        ...

    def batch(self, rows: int, generator: torch.Generator) -> Batch:
        """Strings to train on; the same for a generator in the same state."""
        ...

    def tests(self, rows: int, generator: torch.Generator) -> dict[str, Batch]:
        """Measures after training, by the name of the test."""
        ...

    def readout(self, config: HopeConfig, generator: torch.Generator) -> dict[str, Tensor]:
        """Weights of the task's own that are trained beside the model's; mostly none."""
        ...

    def scores(self, hidden_BTD: Tensor, weights: HopeWeights, readout: Readout) -> Tensor:
        """Hidden states -> scores (B, S, V) for the batch's targets."""
        ...

    def accuracy(self, scores: Tensor, batch: Batch) -> float:
        """From 0 to 1, as the task's source counts it."""
        ...


class LanguageTask:
    """The common case: scores are the model's own logits and nothing else is trained."""

    tokenizer: Tokenizer | None = None

    def readout(self, config: HopeConfig, generator: torch.Generator) -> dict[str, Tensor]:
        return {}

    def scores(self, hidden_BTD: Tensor, weights: HopeWeights, readout: Readout) -> Tensor:
        return logits(weights, hidden_BTD)

    def accuracy(self, scores: Tensor, batch: Batch) -> float:
        """Share of the tokens that count whose target has the highest score."""
        right = (scores.argmax(-1) == batch.targets)[batch.counted]
        return float(right.double().mean())


def summed_loss(scores: Tensor, batch: Batch) -> Tensor:
    """Nats, summed over the places that count: of the id, or the mean over the symbols of a set."""
    if batch.targets.dim() == 3:
        wanted = batch.targets[batch.counted].to(torch.float32)
        found = scores[batch.counted].float()
        each = nnf.binary_cross_entropy_with_logits(found, wanted, reduction="none")
        return each.mean(-1).sum()
    return nnf.cross_entropy(
        scores[batch.counted].float(), batch.targets[batch.counted], reduction="sum"
    )
