"""Trained fast memories of the sessions in a pool's slots, as a static step reads them.

Shape suffixes: B rows of one token, S slots, C capacity, R width of an input of a fast memory, H
its heads, V its value width, K its key width, W its taps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hope_runtime.engine.kv_slots import Slot
from hope_runtime.layers.kv_cache import KVPool
from hope_runtime.models.decoder.static_step import StepInputs
from hope_runtime.models.fast_memory.memory import find, inputs
from hope_runtime.models.fast_memory.weights import FastMemory


class SlotFastMemories:
    """The trained fast memories of all slots, resident beside their windows.

    `inputs` are (S, C, R), what queries are made of; `memories` are (S, H, V, K), zeros where a
    session has none, which adds exactly nothing.
    """

    def __init__(self, fast_memory: FastMemory, pool: KVPool) -> None:
        slots, device = pool.k.shape[1], pool.k.device
        width = fast_memory.config.input_width
        self.fast_memory = fast_memory
        self.inputs = torch.zeros(slots, pool.capacity, width, device=device)
        self.memories = torch.zeros(fast_memory.shape(slots), device=device)
        self._held: list[Tensor | None] = [None] * slots

    def hold(self, slots: Sequence[Slot], numbers: Sequence[int]) -> None:
        """Take over the memories that the slots have now; their `inputs` become views of these."""
        for slot, number in zip(slots, numbers, strict=True):
            here = self.inputs[number]
            if slot.inputs is not None and slot.inputs.data_ptr() != here.data_ptr():
                here.copy_(slot.inputs)
                slot.inputs = here
            if slot.fast is not self._held[number]:
                self.memories[number] = 0 if slot.fast is None else slot.fast
                self._held[number] = slot.fast

    def reading(self, step: StepInputs) -> FastMemoryReading:
        """One step's pass over the memories of its rows."""
        return FastMemoryReading(self, step)


class FastMemoryReading:
    """One step's pass over the fast memories of its rows; for `static_step(.., fast_memory=..)`."""

    def __init__(self, held: SlotFastMemories, step: StepInputs) -> None:
        self._held, self._step = held, step
        self._seen: list[Tensor] = []

    def at(self, layer: int, x_BD: Tensor) -> Tensor:
        """Implementation of models.decoder.forward.FastMemory."""
        fast_memory, step = self._held.fast_memory, self._step
        config, weights = fast_memory.config, fast_memory.weights
        if layer in config.sources:
            self._seen.append(x_BD)
        if layer != config.target:
            return x_BD
        input_BR = inputs(config, weights, torch.cat(self._seen, dim=-1)[None])[0]
        self._held.inputs[step.slots, step.lengths] = input_BR
        before = torch.arange(1 - config.taps, 1, device=x_BD.device)
        places_BW = step.lengths[:, None] + before
        taps_BWR = self._held.inputs[step.slots[:, None], places_BW.clamp(min=0)]
        taps_BWR = taps_BWR.masked_fill((places_BW < 0)[..., None], 0.0)
        memory_BHVK = self._held.memories.index_select(0, step.slots)
        return x_BD + find(config, weights, taps_BWR, memory_BHVK)[:, 0].to(x_BD.dtype)
