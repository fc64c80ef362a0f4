"""Runner: computes a batch of chunks of different requests in one pass of the model.

A text's chunk that runs alone takes the plain path of models/decoder/forward.py, bit for bit;
several take the batched one, and with compiled kernels a single token does so, too.

Shape suffixes: B chunks, T tokens of one chunk, D model width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from hope_runtime.engine.fast_memory import BatchedFastMemory
from hope_runtime.engine.kv_slots import NOT_FINITE, Slot
from hope_runtime.engine.sampling import Sampler
from hope_runtime.engine.static_decoder import StaticDecoder
from hope_runtime.errors import NotFiniteError
from hope_runtime.layers.kernels.native import NativeKernels, row_kernels
from hope_runtime.layers.kernels.torch_kernels import Kernels
from hope_runtime.layers.served_lora import ServedAdapter
from hope_runtime.models.decoder.attention import check_rows
from hope_runtime.models.decoder.batched import RowInput, forward_rows, logits_of_rows, stacked
from hope_runtime.models.decoder.forward import forward
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.fast_memory.weights import FastMemory

_Result_co = TypeVar("_Result_co", covariant=True)


class Reads(Protocol[_Result_co]):
    """A text that is read chunk by chunk; see window_reader.WindowReading."""

    @property
    def chunk(self) -> ForwardChunk | None: ...
    @property
    def result(self) -> _Result_co: ...
    def accept(self, output: Output) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class ForwardChunk:
    """Tokens that `slot` reads next, behind what its cache holds.

    `logits` says whether those of the token after the last one are wanted, and `sampler` how that
    token is chosen, for devices that choose it themselves.
    """

    slot: Slot
    ids: tuple[int, ...]
    logits: bool = True
    sampler: Sampler | None = None

    def slice(self, start: int, limit: int | None) -> ForwardChunk:
        """At most `limit` tokens from `start` on; only the chunk's last slice wants logits."""
        stop = len(self.ids) if limit is None else min(len(self.ids), start + limit)
        if (start, stop) == (0, len(self.ids)):
            return self
        last = stop == len(self.ids)
        return ForwardChunk(self.slot, self.ids[start:stop], self.logits and last, self.sampler)


@dataclass(frozen=True, slots=True, eq=False)
class Output:
    """Hidden states of a chunk, (T, D), and the next token's logits, (V,), if they were wanted.

    `token` is the next one, if the device chose it already; -1 where a logit is not finite.
    """

    hidden_TD: Tensor
    logits_V: Tensor | None
    token: int | None = None


class Runner:
    """Computes chunks with one model. One thread at a time.

    `kernels` default to the fastest of the model's device. With a `static` decoder, which wants
    every slot to be its pool's, single tokens go through it and texts run alone.
    """

    def __init__(
        self,
        model: BaseModel,
        fast_memory: FastMemory | None = None,
        kernels: Kernels | None = None,
        static: StaticDecoder | None = None,
    ) -> None:
        self._model = model
        self._fast_memory = fast_memory
        self._kernels = kernels or row_kernels(model.dtype, model.device)
        self._static = static
        self._native = isinstance(self._kernels, NativeKernels)
        # The adapters of the last batch; its composition mostly stays for many steps.
        self._stack = stacked(model, [], self._kernels)
        self._stacked: list[ServedAdapter | None] = []

    @property
    def tiles(self) -> bool:
        """Whether a step of 16 rows on a CPU costs what a step of one does."""
        return isinstance(self._kernels, NativeKernels) and self._kernels.tiles

    def step(self, chunks: Sequence[ForwardChunk]) -> list[Output | Exception]:
        """The output of each chunk, or the exception that it met; a chunk that cannot be computed
        fails alone.

        NotFiniteError for logits that are not finite: the slot's cache may hold the cause, so the
        slot is cleared.
        """
        try:
            return [_checked(*each) for each in zip(chunks, self.run(chunks), strict=True)]
        except Exception as error:
            if len(chunks) == 1:
                return [error]
        return [found for chunk in chunks for found in self.step([chunk])]

    @torch.no_grad()
    def run(self, chunks: Sequence[ForwardChunk]) -> list[Output]:
        """The output of each chunk. Chunks of one call have different slots.

        Either all caches have grown by what was read, or an error was raised and none has.
        """
        if self._static is not None:
            return self._divided(self._static, chunks)
        alone = len(chunks) == 1 and not (self._native and len(chunks[0].ids) == 1)
        hidden = [self._alone(chunks[0])] if alone else self._together(chunks)
        return self._outputs(chunks, hidden)

    def _outputs(self, chunks: Sequence[ForwardChunk], hidden: Sequence[Tensor]) -> list[Output]:
        wanted = [index for index, chunk in enumerate(chunks) if chunk.logits]
        logits: dict[int, Tensor] = {}
        if wanted:
            last_BD = torch.stack([hidden[index][-1] for index in wanted])
            logits = dict(
                zip(wanted, logits_of_rows(self._model, last_BD, self._kernels), strict=True)
            )
        return [Output(states, logits.get(index)) for index, states in enumerate(hidden)]

    def _divided(self, static: StaticDecoder, chunks: Sequence[ForwardChunk]) -> list[Output]:
        """Single tokens as one static step, longer chunks one by one."""
        check_rows(self._model, [RowInput(chunk.ids, chunk.slot.kv) for chunk in chunks])
        lengths = [chunk.slot.kv.length for chunk in chunks]
        single = [index for index, chunk in enumerate(chunks) if len(chunk.ids) == 1]
        found: dict[int, Output] = {}
        try:
            if single:
                slots = [chunks[index].slot for index in single]
                ids = [chunks[index].ids[0] for index in single]
                samplers = [chunks[index].sampler for index in single]
                decoded, tokens = static.step(slots, ids, samplers)
                for row, index in enumerate(single):
                    logits_V = decoded.logits[row] if chunks[index].logits else None
                    found[index] = Output(decoded.hidden[row : row + 1], logits_V, tokens[row])
            else:
                static.forget()
            for index, chunk in enumerate(chunks):
                if index not in found:
                    [found[index]] = self._outputs([chunk], [self._alone(chunk)])
        except Exception:
            for chunk, length in zip(chunks, lengths, strict=True):
                chunk.slot.kv.length = length
            raise
        return [found[index] for index in range(len(chunks))]

    def finish(self, reading: Reads[_Result_co]) -> _Result_co:
        """Read a text alone to its end. Raises NotFiniteError."""
        while reading.chunk is not None:
            [output] = self.step([reading.chunk])
            if isinstance(output, Exception):
                raise output
            reading.accept(output)
        return reading.result

    def _alone(self, chunk: ForwardChunk) -> Tensor:
        ids_BT = torch.tensor([chunk.ids], device=self._model.device)
        fast_memory = self._fast_memories([chunk])
        hidden_BTD = forward(
            self._model,
            ids_BT,
            cache=chunk.slot.kv,
            adapter=chunk.slot.adapter,
            fast_memory=fast_memory,
        )
        return hidden_BTD[0]

    def _together(self, chunks: Sequence[ForwardChunk]) -> list[Tensor]:
        # Rows of one token first, as the batched pass wants them.
        order = sorted(range(len(chunks)), key=lambda index: len(chunks[index].ids) > 1)
        ordered = [chunks[index] for index in order]
        rows = [RowInput(chunk.ids, chunk.slot.kv, chunk.slot.adapter) for chunk in ordered]
        adapters = [row.adapter for row in rows if len(row.ids) == 1]
        if len(adapters) != len(self._stacked) or any(
            mine is not theirs for mine, theirs in zip(adapters, self._stacked, strict=True)
        ):
            self._stack = stacked(self._model, adapters, self._kernels)
            self._stacked = adapters
        found = forward_rows(
            self._model, rows, self._stack, self._fast_memories(ordered), kernels=self._kernels
        )
        return [found[order.index(index)] for index in range(len(chunks))]

    def _fast_memories(self, chunks: Sequence[ForwardChunk]) -> BatchedFastMemory | None:
        if self._fast_memory is None:
            return None
        return BatchedFastMemory(
            self._fast_memory,
            [chunk.slot for chunk in chunks],
            [len(chunk.ids) for chunk in chunks],
        )


def _checked(chunk: ForwardChunk, output: Output) -> Output | Exception:
    if output.logits_V is None:
        return output
    # The largest logit is NaN where any is.
    finite = math.isfinite(output.logits_V.max()) if output.token is None else output.token >= 0
    if finite:
        return output
    chunk.slot.clear()
    return NotFiniteError(NOT_FINITE)
