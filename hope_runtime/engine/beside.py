"""The trained fast memory beside a batched pass: what each row's own memory adds to its tokens.

A pass reads and never writes; writing is learning's (learning/forward.py). Keys and values of a
window do not depend on what the memory holds, so a row that gets a newer one keeps its cache. What
queries are made of is kept beside keys and values, for every place of the window.

Shape suffixes: N tokens of all rows, B rows of one token, T tokens of one row, D model width,
X values a token at the sources, R width of an input, W taps, H heads, V value width, K key width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hope_runtime.engine.arena import Row
from hope_runtime.memory.branch import Branch, find, inputs


class RowsBranch:
    """One pass over rows, whose tokens lie behind each other: `forward(.., branch=RowsBranch(..))`.

    `lengths` says how many tokens each row reads. The rows' inputs are kept; where a row has no
    fast memory exactly nothing is added.
    """

    def __init__(self, branch: Branch, rows: Sequence[Row], lengths: Sequence[int]) -> None:
        self._branch = branch
        self._rows = rows
        self._lengths = list(lengths)
        self._seen: list[Tensor] = []

    def at(self, layer: int, x_ND: Tensor) -> Tensor:
        """See model/hope.py; (1, T, D) of a row alone is taken as well."""
        config = self._branch.config
        if layer in config.sources:
            self._seen.append(x_ND.reshape(-1, config.d_model))
        if layer != config.target:
            return x_ND
        self._keep(torch.cat(self._seen, dim=-1))
        if all(row.fast is None for row in self._rows):
            return x_ND
        return x_ND + self._added().view_as(x_ND).to(x_ND.dtype)

    def _keep(self, seen_NX: Tensor) -> None:
        input_NR = inputs(self._branch.config, self._branch.weights, seen_NX[None])[0]
        for row, part_TR in zip(self._rows, torch.split(input_NR, self._lengths), strict=True):
            assert row.inputs is not None
            row.inputs[row.kv.length : row.kv.length + len(part_TR)] = part_TR

    def _added(self) -> Tensor:
        """(N, D), float32."""
        config, weights = self._branch.config, self._branch.weights
        parts: list[Tensor | None] = [None] * len(self._rows)
        one_token = [
            index
            for index, row in enumerate(self._rows)
            if row.fast is not None and self._lengths[index] == 1
        ]
        if one_token:
            taps_BWR = torch.stack([self._taps(self._rows[index], 1) for index in one_token])
            memory_BHVK = torch.stack([_of(self._rows[index]) for index in one_token])
            found_B1D = find(config, weights, taps_BWR, memory_BHVK)
            for index, found_1D in zip(one_token, found_B1D, strict=True):
                parts[index] = found_1D
        for index, (row, length) in enumerate(zip(self._rows, self._lengths, strict=True)):
            if row.fast is None:
                parts[index] = weights.out.new_zeros(length, config.d_model)
            elif length > 1:
                taps = self._taps(row, length)[None]
                parts[index] = find(config, weights, taps, _of(row)[None])[0]
        return torch.cat([part for part in parts if part is not None])

    def _taps(self, row: Row, length: int) -> Tensor:
        """The inputs of the new tokens behind those of the W - 1 before them; zeros stand before
        the first token of a window. (W - 1 + T, R)"""
        assert row.inputs is not None
        before = self._branch.config.taps - 1
        start = row.kv.length - before
        taps = row.inputs[max(start, 0) : row.kv.length + length]
        if start >= 0:
            return taps
        return torch.cat([taps.new_zeros(-start, taps.shape[1]), taps])


def _of(row: Row) -> Tensor:
    assert row.fast is not None
    return row.fast
