"""Static decoder: runs steps of rows of one token through static_step.py, in batches of few sizes.

A batch is filled up to the next power of two, and windows are looked at up to the next one, too, so
that few shapes exist; each is captured as a CUDA graph when it first comes, where there is CUDA.

Shape suffixes: B rows of one token, filled up, V vocabulary, S slots, C capacity, R width of an
input of a fast memory, H its heads, V' its value width, K its key width, W its taps.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from hope_runtime.device import usable_cpus
from hope_runtime.engine.device_draws import UNSURE, draw
from hope_runtime.engine.kv_slots import Slot
from hope_runtime.engine.sampling import Sampler
from hope_runtime.graph_capture import Captured
from hope_runtime.host_copies import on_device
from hope_runtime.layers.kv_cache import KVPool
from hope_runtime.models.decoder.batched import logits_of_rows
from hope_runtime.models.decoder.static_step import AdapterTable, StepInputs, static_step
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.fast_memory.memory import find, inputs
from hope_runtime.models.fast_memory.weights import FastMemory

_log = logging.getLogger(__name__)

# A shorter view of the windows than this saves less than another graph costs.
LEAST_VISIBLE = 256
# Of hidden states that two forms of a step compute, relative; bfloat16 alone differs by some 0.01.
MOST_DIFFERENCE = 0.03


@dataclass(frozen=True, slots=True)
class Decoded:
    """Result of a step, for rows that fill a batch up, too: hidden states (B, D), logits (B, V),
    and the likeliest token of each row, -1 where a logit is not finite."""

    hidden: Tensor
    logits: Tensor
    best: Tensor


class StaticDecoder:
    """Decodes tokens of rows whose caches are slots of `pool`, at most `rows` at a time.

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
        self._noise = ThreadPoolExecutor(usable_cpus(), thread_name_prefix="hope-noise")
        self._steps: dict[tuple[int, int], Captured[Decoded]] = {}

    def step(
        self, slots: Sequence[Slot], ids: Sequence[int], samplers: Sequence[Sampler | None] = ()
    ) -> tuple[Decoded, list[int | None]]:
        """Read one token in each slot; the result, and the next tokens on the host: as each row's
        sampler, if it has one, draws it, or else the likeliest. -1 where a logit is not finite,
        None where the sampler must choose itself.

        The windows grow by their token. Slots are those of the pool, and have room.
        """
        B = _power_of_two(len(slots))
        lengths = [slot.kv.length for slot in slots]
        visible = min(max(_power_of_two(max(lengths) + 1), LEAST_VISIBLE), self._pool.capacity)
        numbers = [_number(slot) for slot in slots]
        spare = [0] * (B - len(slots))
        unused = [self._pool.k.shape[1] - 1] * len(spare)
        rows = self._table.rows_of([slot.adapter for slot in slots])
        if self._fast is not None:
            self._fast.hold(slots, numbers)
        packed_4B = torch.tensor(
            [[*ids, *spare], [*lengths, *spare], [*numbers, *unused], [*rows, *spare]]
        )
        held_4B = self._inputs.setdefault(B, torch.zeros_like(packed_4B).to(self._model.device))
        held_4B.copy_(packed_4B)
        decoded = self._step_of(B, visible).replay()
        chosen_B = self._drawn(decoded, samplers)
        # The one place that waits for the device.
        tokens = chosen_B[: len(slots)].tolist()
        for slot in slots:
            slot.kv.length += 1
        return decoded, [None if token == UNSURE else token for token in tokens]

    def _drawn(self, decoded: Decoded, samplers: Sequence[Sampler | None]) -> Tensor:
        """The next token of each row, (B,). Noise is made while the device computes."""
        size = decoded.logits.shape[1]
        given = {
            row: sampler
            for row, sampler in enumerate(samplers)
            if sampler is not None and sampler.draws_by_logits
        }
        if not given:
            return decoded.best
        # Each row's generator is its own, and passing over its bits takes a fraction of a
        # millisecond.
        draws = list(self._noise.map(lambda sampler: sampler.draw_of(size), given.values()))
        rows_B = on_device(list(given), torch.long, decoded.best.device)
        best_B = decoded.best.index_select(0, rows_B)
        drawn_B = draw(decoded.logits.index_select(0, rows_B), draws)
        return decoded.best.index_copy(0, rows_B, torch.where(best_B < 0, best_B, drawn_B))

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


class SlotFastMemories:
    """The trained fast memories of all slots, resident beside their windows.

    `inputs` are (S, C, R), what queries are made of; `memories` are (S, H, V', K), zeros where a
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


def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _power_of_two(count: int) -> int:
    """The smallest one that is not below `count`."""
    return 1 << (count - 1).bit_length()


def _number(slot: Slot) -> int:
    assert slot.kv.slot is not None, "the slot lies in the engine's pool"
    return slot.kv.slot
