"""Trained fast memories of a batch: each row's own memory adds to its own tokens.

A pass reads and never writes; learning/recipes/fast_memory_writer.py writes. Keys and values of a
window do not depend on what the memory holds, so a row that gets a newer one keeps its cache. The
inputs of queries are kept beside keys and values, for every place of the window.

Shape suffixes: N tokens of all rows, B rows, T tokens of one row, S = W - 1 + T, D model width,
X values a token at the sources, R width of an input, W taps, H heads, V value width, K key width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hope_runtime.engine.kv_slots import Slot
from hope_runtime.models.fast_memory.memory import find, inputs
from hope_runtime.models.fast_memory.weights import FastMemory


class BatchedFastMemory:
    """The fast memories of a batch, row by row, for `forward(.., fast_memory=...)`.

    `lengths` says how many tokens each row reads. The rows' inputs are kept; where a row has no
    fast memory exactly nothing is added.
    """

    def __init__(
        self, fast_memory: FastMemory, slots: Sequence[Slot], lengths: Sequence[int]
    ) -> None:
        self._fast_memory = fast_memory
        self._slots = slots
        self._lengths = list(lengths)
        self._seen: list[Tensor] = []

    def at(self, layer: int, x_ND: Tensor) -> Tensor:
        """Implementation of models.decoder.forward.FastMemory; takes (N, D), or (1, T, D) of one
        row."""
        config = self._fast_memory.config
        if layer in config.sources:
            self._seen.append(x_ND.reshape(-1, config.d_model))
        if layer != config.target:
            return x_ND
        self._keep(torch.cat(self._seen, dim=-1))
        if all(slot.fast is None for slot in self._slots):
            return x_ND
        return x_ND + self._added().view_as(x_ND).to(x_ND.dtype)

    def _keep(self, seen_NX: Tensor) -> None:
        input_NR = inputs(self._fast_memory.config, self._fast_memory.weights, seen_NX[None])[0]
        for slot, part_TR in zip(self._slots, torch.split(input_NR, self._lengths), strict=True):
            assert slot.inputs is not None
            slot.inputs[slot.kv.length : slot.kv.length + len(part_TR)] = part_TR

    def _added(self) -> Tensor:
        """(N, D), float32."""
        taps = [
            self._taps(slot, length)
            for slot, length in zip(self._slots, self._lengths, strict=True)
        ]
        return find_of_rows(self._fast_memory, taps, [slot.fast for slot in self._slots])

    def _taps(self, slot: Slot, length: int) -> Tensor:
        """The inputs of the new tokens behind those of the W - 1 before them; zeros stand before
        the first token of a window. (W - 1 + T, R)"""
        assert slot.inputs is not None
        before = self._fast_memory.config.taps - 1
        start = slot.kv.length - before
        taps = slot.inputs[max(start, 0) : slot.kv.length + length]
        if start >= 0:
            return taps
        return torch.cat([taps.new_zeros(-start, taps.shape[1]), taps])


def find_of_rows(
    fast_memory: FastMemory, taps: Sequence[Tensor], memories: Sequence[Tensor | None]
) -> Tensor:
    """Values that the rows' tokens find, one row behind the other: (N, D), float32.

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
