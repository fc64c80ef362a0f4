"""Examples as one lean training pass reads them: token ids without padding, targets, references.

Shape suffixes: N tokens of all examples, E examples, T tokens of the longest, P tokens of the
prefix, M targets, K likeliest tokens of a reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hope_runtime.learning.packing import Example
from hope_runtime.learning.reference import LIKELIEST, Reference

# Parts that a step is cut into, whatever the number of cores.
PARTS = 2


@dataclass(frozen=True, slots=True)
class Item:
    """An example to learn or, with a reference, to be held to it; `weight` is that of one of its
    targets in the loss. `unlikely` targets are to be unlearnt."""

    example: Example
    weight: float
    reference: Reference | None = None
    unlikely: bool = False

    @property
    def targets(self) -> int:
        """Targets that are predicted."""
        return sum(self.example.targets[1:])

    def weighing(self, weight: float) -> Item:
        """The same with another weight."""
        return replace(self, weight=weight)


class Batch:
    """Examples as one pass reads them. All those with a prefix have the same one."""

    def __init__(self, items: Sequence[Item], device: torch.device | str) -> None:
        examples = [item.example for item in items]
        self.of = examples
        lengths = [len(example.ids) for example in examples]
        prefixes = {example.prefix for example in examples if example.prefix}
        assert len(prefixes) <= 1, "examples of one batch share their prefix"
        self.prefix: tuple[int, ...] = next(iter(prefixes), ())
        self.examples, self.longest = len(examples), max(lengths)
        ids: list[int] = []
        positions: list[int] = []
        places: list[int] = []
        predictors, targets, owners, weights = [], [], [], []
        for row, item in enumerate(items):
            example, at, first = item.example, len(ids), len(item.example.prefix)
            ids += example.ids
            positions += range(first, first + len(example.ids))
            places += range(row * self.longest, row * self.longest + len(example.ids))
            for offset, (token, wanted) in enumerate(
                zip(example.ids, example.targets, strict=True)
            ):
                # Without a predecessor, or one that has no gradient, nothing is predicted.
                if wanted and offset:
                    predictors.append(at + offset - 1)
                    targets.append(token)
                    owners.append(row)
                    weights.append(item.weight)
        self.tokens = len(ids)

        def long(values: Sequence[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.long, device=device)

        self.ids_N, self.positions_N, self.places_N = long(ids), long(positions), long(places)
        self.predictors_M, self.targets_M, self.owners_M = map(long, (predictors, targets, owners))
        self.weights_M = torch.tensor(weights, device=device)
        self.is_full = len(ids) == self.examples * self.longest
        self._mask(lengths, [bool(example.prefix) for example in examples], device)
        self._references(items, device)

    def _mask(self, lengths: list[int], prefixed: list[bool], device: torch.device | str) -> None:
        at_T = torch.arange(self.longest, device=device)
        lengths_E = torch.tensor(lengths, device=device)
        causal_TT = at_T[:, None] >= at_T[None]
        own_ETT = causal_TT[None] & (at_T[None, None] < lengths_E[:, None, None])
        # A padded place sees itself: attention to nothing has no value.
        own_ETT = own_ETT | torch.eye(self.longest, dtype=torch.bool, device=device)[None]
        prefix_E = torch.tensor(prefixed, device=device)
        prefix_ETP = prefix_E[:, None, None].expand(-1, self.longest, len(self.prefix))
        self.mask_ETS = torch.cat([prefix_ETP, own_ETT], dim=-1)

    def _references(self, items: Sequence[Item], device: torch.device | str) -> None:
        count = len(self.targets_M)
        self.soft_M = torch.zeros(count, dtype=torch.bool, device=device)
        self.unlikely_M = torch.zeros(count, dtype=torch.bool, device=device)
        self.likely_MK = torch.zeros(count, LIKELIEST, dtype=torch.long, device=device)
        self.shares_MK = torch.zeros(count, LIKELIEST, device=device)
        for row, item in enumerate(items):
            mine = (self.owners_M == row).nonzero()[:, 0]
            if item.unlikely:
                self.unlikely_M[mine] = True
            if item.reference is None or not len(mine):
                continue
            self.soft_M[mine] = True
            # A first token without a predecessor has a reference in a packed view, and none here.
            self.likely_MK[mine] = item.reference.ids_NK[-len(mine) :]
            self.shares_MK[mine] = item.reference.log_probabilities_NK[-len(mine) :].exp()


def share_out(lengths: Sequence[int]) -> list[list[int]]:
    """Places of texts in PARTS or fewer parts, about as many tokens in each, long ones together: a
    part pads attention to its longest."""
    order = sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))
    shares: list[list[int]] = []
    filled = 0
    for place in order:
        if not shares or (filled >= sum(lengths) * len(shares) / PARTS and len(shares) < PARTS):
            shares.append([])
        shares[-1].append(place)
        filled += lengths[place]
    return [sorted(share) for share in shares]
