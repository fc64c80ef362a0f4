"""Examples as one lean training pass reads them: token ids without padding, targets, references.

Shape suffixes: N tokens of all examples, E examples, T tokens of the longest, P tokens of the
prefix, M targets, K likeliest tokens of a reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial

import torch
from torch import Tensor

from hope_runtime.graph_capture import few_shapes
from hope_runtime.host_copies import on_device
from hope_runtime.learning.packing import Example
from hope_runtime.learning.reference import LIKELIEST, Reference

# Parts that a step is cut into, whatever the number of cores.
PARTS = 2
# What sizes are rounded up to at least: a smaller shape saves less than another graph costs.
LEAST_PADDED = 16


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


@dataclass(frozen=True, slots=True)
class BatchTensors:
    """Inputs of one pass beside hidden states; no shape depends on anything else.

    Tokens and targets, in the order of their examples: `positions_N`, `places_N` among the E * T of
    padded attention, `predictors_M` among the N tokens, `owners_M` among the examples. `lengths_E`
    are in tokens, and `prefixed_E` says which examples see the prefix of `prefix` tokens. Of a
    target: its token, its weight in the loss, whether it is held to a reference, `likely_MK` and
    `shares_MK`, and whether it is to be unlearnt. `is_full` says that nothing pads attention.
    """

    positions_N: Tensor
    places_N: Tensor
    lengths_E: Tensor
    prefixed_E: Tensor
    predictors_M: Tensor
    targets_M: Tensor
    owners_M: Tensor
    weights_M: Tensor
    soft_M: Tensor
    unlikely_M: Tensor
    likely_MK: Tensor
    shares_MK: Tensor
    longest: int
    prefix: int
    is_full: bool

    @property
    def examples(self) -> int:
        """E."""
        return len(self.lengths_E)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, in the order of their declaration."""
        values = ((item.name, getattr(self, item.name)) for item in fields(self))
        return {name: value for name, value in values if isinstance(value, Tensor)}

    def mask(self) -> Tensor:
        """Places where a token may look, bool (E, T, P + T): the prefix, if any, and its past."""
        at_T = torch.arange(self.longest, device=self.lengths_E.device)
        causal_TT = at_T[:, None] >= at_T[None]
        own_ETT = causal_TT[None] & (at_T[None, None] < self.lengths_E[:, None, None])
        # A padded place sees itself: attention to nothing has no value.
        own_ETT = own_ETT | (at_T[:, None] == at_T[None])[None]
        prefix_ETP = self.prefixed_E[:, None, None].expand(-1, self.longest, self.prefix)
        return torch.cat([prefix_ETP, own_ETT], dim=-1)


class Batch:
    """Examples as one pass reads them. All those with a prefix have the same one.

    `padded` rounds every size up to a power of two, so that few shapes exist and each can be
    captured as a graph: there is an example more than there are, and tokens and targets that fill
    up belong to it, where they change nothing.
    """

    def __init__(
        self, items: Sequence[Item], device: torch.device | str, *, padded: bool = False
    ) -> None:
        examples = [item.example for item in items]
        self.of = examples
        lengths = [len(example.ids) for example in examples]
        prefixes = {example.prefix for example in examples if example.prefix}
        assert len(prefixes) <= 1, "examples of one batch share their prefix"
        self.prefix: tuple[int, ...] = next(iter(prefixes), ())
        self.tokens = sum(lengths)
        # Targets of each example. Without a predecessor, or one that has no gradient, nothing is
        # predicted.
        self.counts = [item.targets for item in items]
        M = sum(self.counts)
        sizes = [self.tokens, M, len(examples), max(lengths)]
        if padded:
            sizes[2] += 1
            sizes = [few_shapes(size, LEAST_PADDED) for size in sizes]
        self.padded_tokens, padded_M, E, T = sizes
        # An example that nobody has, if there is one.
        spare = min(len(examples), E - 1)
        positions: list[int] = []
        places: list[int] = []
        predictors, targets, owners, weights = [], [], [], []
        for row, item in enumerate(items):
            example, at, first = item.example, len(places), len(item.example.prefix)
            positions += range(first, first + len(example.ids))
            places += range(row * T, row * T + len(example.ids))
            for offset, (token, wanted) in enumerate(
                zip(example.ids, example.targets, strict=True)
            ):
                if wanted and offset:
                    predictors.append(at + offset - 1)
                    targets.append(token)
                    owners.append(row)
                    weights.append(item.weight)
        more_N, more_M, more_E = self.padded_tokens - self.tokens, padded_M - M, E - len(examples)
        unlikely = [item.unlikely for item in items for _ in range(item.targets)]
        long = partial(on_device, dtype=torch.long, device=device)
        flags = partial(on_device, dtype=torch.bool, device=device)
        soft, likely_MK, shares_MK = _references(items, self.counts, more_M, device)
        self.tensors = BatchTensors(
            positions_N=long(positions + [0] * more_N),
            places_N=long(places + [spare * T] * more_N),
            lengths_E=long(lengths + [0] * more_E),
            prefixed_E=flags([bool(example.prefix) for example in examples] + [False] * more_E),
            predictors_M=long(predictors + [0] * more_M),
            targets_M=long(targets + [0] * more_M),
            owners_M=long(owners + [spare] * more_M),
            weights_M=on_device(weights + [0.0] * more_M, torch.float32, device),
            soft_M=flags(soft + [False] * more_M),
            unlikely_M=flags(unlikely + [False] * more_M),
            likely_MK=likely_MK,
            shares_MK=shares_MK,
            longest=T,
            prefix=len(self.prefix),
            is_full=not padded and self.tokens == E * T,
        )

    def ids(self, device: torch.device | str) -> Tensor:
        """Token ids, (N,), without those that fill up."""
        return on_device([token for each in self.of for token in each.ids], torch.long, device)


def _references(
    items: Sequence[Item], counts: Sequence[int], more: int, device: torch.device | str
) -> tuple[list[bool], Tensor, Tensor]:
    """Flags of the targets that have a reference, and these, (M, K) each, with `more` rows that
    fill up."""
    soft: list[bool] = []
    ids: list[Tensor] = []
    shares: list[Tensor] = []
    for item, count in zip(items, counts, strict=True):
        held = item.reference if count else None
        soft += [held is not None] * count
        if held is None:
            ids.append(torch.zeros(count, LIKELIEST, dtype=torch.long, device=device))
            shares.append(torch.zeros(count, LIKELIEST, device=device))
        else:
            # A first token without a predecessor has a reference in a packed view, and none here.
            ids.append(held.ids_NK[-count:])
            shares.append(held.log_probabilities_NK[-count:].exp())
    ids.append(torch.zeros(more, LIKELIEST, dtype=torch.long, device=device))
    shares.append(torch.zeros(more, LIKELIEST, device=device))
    return soft, torch.cat(ids), torch.cat(shares)


def share_out(lengths: Sequence[int], parts: int = PARTS) -> list[list[int]]:
    """Places of texts in so many parts or fewer, about as many tokens in each, long ones together:
    a part pads attention to its longest."""
    order = sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))
    shares: list[list[int]] = []
    filled = 0
    for place in order:
        if not shares or (filled >= sum(lengths) * len(shares) / parts and len(shares) < parts):
            shares.append([])
        shares[-1].append(place)
        filled += lengths[place]
    return [sorted(share) for share in shares]
