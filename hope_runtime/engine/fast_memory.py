"""The trained fast memory beside a batched pass: what each row's own memory adds to its tokens.

A pass reads and never writes; writing is learning's (learning/forward.py). Keys and values of a
window do not depend on what the memory holds, so a row that gets a newer one keeps its cache. What
queries are made of is kept beside keys and values, for every place of the window.

Shape suffixes: N tokens of all rows, B rows, T tokens of one row, S = W - 1 + T, D model width,
X values a token at the sources, R width of an input, W taps, H heads, V value width, K key width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hope_runtime.engine.kv_slots import Row
from hope_runtime.models.fast_memory.memory import find, inputs
from hope_runtime.models.fast_memory.weights import FastMemory


class BatchedFastMemory:
    """The fast memories of a batch, row by row, for `forward(.., fast_memory=...)`.

    `lengths` says how many tokens each row reads. The rows' inputs are kept; where a row has no
    fast memory exactly nothing is added.
    """

    def __init__(
        self, fast_memory: FastMemory, rows: Sequence[Row], lengths: Sequence[int]
    ) -> None:
        self._fast_memory = fast_memory
        self._rows = rows
        self._lengths = list(lengths)
        self._seen: list[Tensor] = []

    def at(self, layer: int, x_ND: Tensor) -> Tensor:
        """See model/hope.py; (1, T, D) of a row alone is taken as well."""
        config = self._fast_memory.config
        if layer in config.sources:
            self._seen.append(x_ND.reshape(-1, config.d_model))
        if layer != config.target:
            return x_ND
        self._keep(torch.cat(self._seen, dim=-1))
        if all(row.fast is None for row in self._rows):
            return x_ND
        return x_ND + self._added().view_as(x_ND).to(x_ND.dtype)

    def _keep(self, seen_NX: Tensor) -> None:
        input_NR = inputs(self._fast_memory.config, self._fast_memory.weights, seen_NX[None])[0]
        for row, part_TR in zip(self._rows, torch.split(input_NR, self._lengths), strict=True):
            assert row.inputs is not None
            row.inputs[row.kv.length : row.kv.length + len(part_TR)] = part_TR

    def _added(self) -> Tensor:
        """(N, D), float32."""
        taps = [
            self._taps(row, length) for row, length in zip(self._rows, self._lengths, strict=True)
        ]
        return find_of_rows(self._fast_memory, taps, [row.fast for row in self._rows])

    def _taps(self, row: Row, length: int) -> Tensor:
        """The inputs of the new tokens behind those of the W - 1 before them; zeros stand before
        the first token of a window. (W - 1 + T, R)"""
        assert row.inputs is not None
        before = self._fast_memory.config.taps - 1
        start = row.kv.length - before
        taps = row.inputs[max(start, 0) : row.kv.length + length]
        if start >= 0:
            return taps
        return torch.cat([taps.new_zeros(-start, taps.shape[1]), taps])


class _Several:
    """Rows of a batch whose memories different fast memories wrote: each sees its own rows."""

    def __init__(
        self, groups: Sequence[Sequence[int]], rows: Sequence[Row], lengths: Sequence[int]
    ) -> None:
        self._lengths = list(lengths)
        self._groups = [(group, _of_one(group, rows, lengths)) for group in groups]

    def at(self, layer: int, x_ND: Tensor) -> Tensor:
        """See BatchedFastMemory."""
        parts = list(torch.split(x_ND, self._lengths))
        for group, reading in self._groups:
            found_ND = reading.at(layer, torch.cat([parts[place] for place in group]))
            own = torch.split(found_ND, [self._lengths[place] for place in group])
            for place, part_TD in zip(group, own, strict=True):
                parts[place] = part_TD
        return torch.cat(parts)


def beside(rows: Sequence[Row], lengths: Sequence[int]) -> BatchedFastMemory | _Several | None:
    """The fast memories of a batch of bound rows, for `forward`; None where the model has none."""
    groups: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        if row.fast_memory is not None:
            groups.setdefault(row.fast_memory.digest, []).append(place)
    if not groups:
        return None
    if len(groups) == 1:
        return _of_one(range(len(rows)), rows, lengths)
    return _Several(list(groups.values()), rows, lengths)


def _of_one(
    places: Sequence[int], rows: Sequence[Row], lengths: Sequence[int]
) -> BatchedFastMemory:
    fast_memory = rows[places[0]].fast_memory
    assert fast_memory is not None
    return BatchedFastMemory(
        fast_memory, [rows[place] for place in places], [lengths[place] for place in places]
    )


def find_of_rows(
    fast_memory: FastMemory, taps: Sequence[Tensor], memories: Sequence[Tensor | None]
) -> Tensor:
    """What the rows' tokens find, one row behind the other: (N, D), float32.

    `taps` are each row's inputs, those of the W - 1 tokens before it included, (W - 1 + T, R);
    `memories` are (H, V, K). A row without one finds exactly nothing. Rows of one token are one
    product.
    """
    config, weights = fast_memory.config, fast_memory.weights
    lengths = [len(taps_SR) - (config.taps - 1) for taps_SR in taps]
    found = [weights.out.new_zeros(length, config.d_model) for length in lengths]
    held = [index for index, memory in enumerate(memories) if memory is not None]
    for members in (
        [index for index in held if lengths[index] == 1],
        *([index] for index in held if lengths[index] > 1),
    ):
        if members:
            taps_BSR = torch.stack([taps[index] for index in members])
            memory_BHVK = torch.stack([_there(memories[index]) for index in members])
            added_BTD = find(config, weights, taps_BSR, memory_BHVK)
            for index, added_TD in zip(members, added_BTD, strict=True):
                found[index] = added_TD
    return torch.cat(found)


def _there(memory: Tensor | None) -> Tensor:
    assert memory is not None
    return memory
