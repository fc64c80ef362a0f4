"""Static steps: launches steps of rows of one token, models/decoder/static_step.py, in few shapes.

A batch is filled up to the next power of two, and windows are looked at up to the next one, too, so
that few shapes exist; each is captured as a CUDA graph when it first comes, where there is CUDA.

Shape suffixes: B rows of one token, filled up, D model width, V vocabulary.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hope_runtime.engine.kv_slots import Slot
from hope_runtime.engine.slot_fast_memories import SlotFastMemories
from hope_runtime.graph_capture import Captured, few_shapes
from hope_runtime.host_copies import on_device
from hope_runtime.layers.kv_cache import KVPool
from hope_runtime.models.decoder.batched import logits_of_rows
from hope_runtime.models.decoder.static_step import AdapterTable, StepInputs, static_step
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.fast_memory.weights import FastMemory

_log = logging.getLogger(__name__)

# A shorter view of the windows than this saves less than another graph costs.
LEAST_VISIBLE = 256
# Of hidden states that two forms of a step compute, relative; bfloat16 alone differs by some 0.01.
MOST_DIFFERENCE = 0.03


@dataclass(frozen=True, slots=True)
class Decoded:
    """Result of a step: hidden states (B, D), logits (B, V), and the likeliest token of each row,
    (B,), -1 where a logit is not finite."""

    hidden: Tensor
    logits: Tensor
    best: Tensor

    def rows(self, places: Sequence[int]) -> Decoded:
        """Copies of these rows."""
        at = on_device(places, torch.long, self.best.device)
        return Decoded(*(part.index_select(0, at) for part in self.parts()))

    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """The three, in the order of their declaration."""
        return self.hidden, self.logits, self.best


class StaticSteps:
    """Steps of rows whose caches are slots of `pool`, at most `rows` at a time.

    The last slot of the pool belongs to no session: rows that fill up a batch write there. `rank`
    is the highest of a session's adapter. One thread at a time.

    `in_place` says whether Triton's kernels compute; by default each shape takes the faster form.
    """

    def __init__(
        self,
        model: BaseModel,
        pool: KVPool,
        *,
        rows: int,
        rank: int,
        fast_memory: FastMemory | None = None,
        in_place: bool | None = None,
    ) -> None:
        self._model = model
        # Whether Triton's kernels compute the steps; None: where they are faster.
        self._in_place = in_place
        self._may_choose = in_place is None and model.device.type == "cuda" and _has_triton()
        self._pool = pool
        self._table = AdapterTable(model, rows, rank)
        self._fast = None if fast_memory is None else SlotFastMemories(fast_memory, pool)
        self._inputs: dict[int, Tensor] = {}
        self._steps: dict[tuple[int, int], Captured[Decoded]] = {}

    def launch(
        self, slots: Sequence[Slot], ids: Sequence[int] | Tensor, lengths: Sequence[int]
    ) -> Decoded:
        """Read one token in each slot behind `lengths` others; the host waits for nothing.

        `ids`, (len(slots),), may be a device's. Slots are those of the pool and have room; what
        they say of their lengths stays.
        """
        count, device = len(slots), self._model.device
        B = few_shapes(count)
        visible = min(few_shapes(max(lengths) + 1, LEAST_VISIBLE), self._pool.capacity)
        numbers = [slot_number(slot) for slot in slots]
        spare = [0] * (B - count)
        unused = [self._pool.k.shape[1] - 1] * len(spare)
        rows = self._table.rows_of([slot.adapter for slot in slots])
        if self._fast is not None:
            self._fast.hold(slots, numbers)
        known = [0] * count if isinstance(ids, Tensor) else ids
        packed = [*known, *spare, *lengths, *spare, *numbers, *unused, *rows, *spare]
        packed_4B = on_device(packed, torch.long, device).view(4, B)
        held_4B = self._inputs.setdefault(B, torch.zeros_like(packed_4B))
        held_4B.copy_(packed_4B)
        if isinstance(ids, Tensor):
            held_4B[0, :count] = ids
        decoded = self._step_of(B, visible).replay()
        # Copies: the next step overwrites them.
        return Decoded(*(part[:count].clone() for part in decoded.parts()))

    def erase(self, slots: Sequence[int], places: Sequence[int]) -> None:
        """Zero keys and values at one place of each of these slots of the pool."""
        at = [on_device(each, torch.long, self._model.device) for each in (slots, places)]
        for cache in (self._pool.k, self._pool.v):
            cache[:, at[0], :, at[1]] = 0

    @property
    def capacity(self) -> int:
        """Tokens that a slot has room for."""
        return self._pool.capacity

    def _step_of(self, B: int, visible: int) -> Captured[Decoded]:
        step = self._steps.get((B, visible))
        if step is None:
            step = self._captured(B, visible, in_place=bool(self._in_place))
            if self._may_choose:
                step = self._faster(step, B, visible)
            self._steps[B, visible] = step
        return step

    def _captured(self, B: int, visible: int, *, in_place: bool) -> Captured[Decoded]:
        return Captured(lambda: self._compute(B, visible, in_place), self._model.device)

    def _faster(self, usual: Captured[Decoded], B: int, visible: int) -> Captured[Decoded]:
        """The usual form of a step, or the one of Triton's kernels if it computes the same faster.

        Both read what the inputs hold now and write the same keys and values, however often.
        """
        try:
            other = self._captured(B, visible, in_place=True)
            expected, found = usual.replay().hidden.float(), other.replay().hidden.float()
            difference = float((found - expected).norm() / expected.norm().clamp(min=1e-6))
            if not difference <= MOST_DIFFERENCE:
                raise ArithmeticError(f"the results differ by {difference:.2g}")
            before, after = usual.milliseconds(), other.milliseconds()
        except Exception as error:  # a compiler may fail in many ways, and is not needed
            self._may_choose = False
            _log.warning("steps are computed without Triton's kernels: %s", error)
            return usual
        _log.info("a step of %d rows takes %.2f ms, in place %.2f ms", B, before, after)
        return other if after < before else usual

    @torch.no_grad()
    def _compute(self, B: int, visible: int, in_place: bool) -> Decoded:
        step = StepInputs.of(self._inputs[B])
        fast_memory = None if self._fast is None else self._fast.reading(step)
        hidden_BD = static_step(
            self._model, self._pool, self._table, step, visible, fast_memory, in_place=in_place
        )
        logits_BV = logits_of_rows(self._model, hidden_BD)
        finite_B = logits_BV.amax(-1).isfinite()
        return Decoded(hidden_BD, logits_BV, logits_BV.argmax(-1).where(finite_B, -1))


def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def slot_number(slot: Slot) -> int:
    """The number of a slot of the pool."""
    assert slot.kv.slot is not None, "the slot lies in the engine's pool"
    return slot.kv.slot
