"""Window reader: fills a slot's cache so that its last position can predict the next token.

Keys and values are a pure function of (window token ids, memory): whole chunks lie at fixed places
of the window, each computed over the same predecessors, and what was read in another way (a partial
chunk, single decoded tokens) is read again once its chunk is full. So a reply does not depend on
whether its window was resident: alone, not even in the last bit, and beside others, where shapes
are those of the batch, up to rounding.

Shape suffixes: T tokens of a chunk, D model width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor

from hope_runtime.engine.kv_slots import NOT_FINITE, Memories, Slot
from hope_runtime.engine.runner import ForwardChunk, Output
from hope_runtime.errors import NotFiniteError
from hope_runtime.layers.kernels.native import row_kernels
from hope_runtime.layers.kv_cache import KVCache
from hope_runtime.models.decoder.batched import logits_of_rows
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.fast_memory.session import written
from hope_runtime.models.fast_memory.weights import FastMemory
from hope_runtime.session.memory import SessionMemory
from hope_runtime.tokenizer import Tokenizer

CHUNK_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Reading:
    """Result of reading a window.

    `logits` (V,) predict the token after the window; `nats` is the summed negative log-likelihood
    of the `scored` tokens that were asked for.
    """

    logits: Tensor
    nats: float
    scored: int


class WindowReading:
    """Reading of `tokens` into a slot, chunk by chunk, from the first `start` tokens that it holds.

    `chunk` is read next, None once all was read; `accept` takes its output, of which `score` may
    have seen slices before. Also scores the tokens at the ascending indices `scored`, but for index
    0, which nothing predicts.
    """

    def __init__(
        self,
        model: BaseModel,
        slot: Slot,
        tokens: tuple[int, ...],
        start: int,
        scored: Sequence[int],
    ) -> None:
        self._model = model
        self._slot = slot
        self._tokens = tokens
        self._wanted = scored
        self._kernels = row_kernels(model.dtype, model.device)
        # Tokens of the chunk whose states were seen.
        self._seen = 0
        self._nats, self._scored = 0.0, 0
        self._logits_V: Tensor | None = None
        # Hidden state of the position before the chunk.
        self._last_D: Tensor | None = None
        slot.kv.truncate(start)
        slot.tokens, slot.aligned = tokens[:start], start
        self.chunk = self._chunk_at(start)

    @property
    def result(self) -> Reading:
        """The reading, once `chunk` is None."""
        assert self._logits_V is not None, "a window needs at least one token"
        return Reading(self._logits_V, self._nats, self._scored)

    def accept(self, output: Output) -> None:
        """Take the output of `chunk`. Raises NotFiniteError when the nats are not finite."""
        assert self.chunk is not None
        slot, start = self._slot, len(self._slot.tokens)
        end = start + len(self.chunk.ids)
        self.score(output.hidden_TD[self._seen :])
        self._seen, self._logits_V = 0, output.logits_V
        slot.tokens = self._tokens[:end]
        if end - start == CHUNK_TOKENS:
            slot.aligned = end
        self.chunk = self._chunk_at(end)
        if self.chunk is None and not math.isfinite(self._nats):
            slot.clear()
            raise NotFiniteError(NOT_FINITE)

    def _chunk_at(self, start: int) -> ForwardChunk | None:
        end = min(start + CHUNK_TOKENS, len(self._tokens))
        if start == end:
            return None
        return ForwardChunk(self._slot, self._tokens[start:end], logits=end == len(self._tokens))

    @torch.no_grad()
    def score(self, hidden_TD: Tensor) -> None:
        """Score the chosen tokens that the chunk's next states and the one before them predict:
        slice by slice, so that no step of a batch does it for a whole chunk."""
        start = len(self._slot.tokens) + self._seen
        end = start + len(hidden_TD)
        self._seen += len(hidden_TD)
        last_D, self._last_D = self._last_D, hidden_TD[-1]
        # Row i of these states predicts the token at index `origin + i + 1`.
        states_TD = hidden_TD if last_D is None else torch.cat([last_D[None], hidden_TD])
        origin = start if last_D is None else start - 1
        chosen = [index for index in self._wanted if origin < index < end]
        if not chosen:
            return
        states_TD = states_TD[torch.tensor(chosen) - 1 - origin]
        logits_TV = logits_of_rows(self._model, states_TD, self._kernels)
        targets = torch.tensor([self._tokens[index] for index in chosen], device=logits_TV.device)
        self._nats += float(nnf.cross_entropy(logits_TV.float(), targets, reduction="sum"))
        self._scored += len(chosen)


class TokenReading:
    """Reading of one more token behind what a slot holds; the result is the next token's logits."""

    def __init__(self, slot: Slot, token: int) -> None:
        self._slot = slot
        self._logits_V: Tensor | None = None
        self.chunk: ForwardChunk | None = ForwardChunk(slot, (token,))

    @property
    def result(self) -> Tensor:
        """Logits of the token after it, (V,), once `chunk` is None."""
        assert self._logits_V is not None
        return self._logits_V

    def accept(self, output: Output) -> None:
        """Take the output of `chunk`."""
        assert self.chunk is not None
        self._slot.tokens += self.chunk.ids
        self._logits_V, self.chunk = output.logits_V, None


class Reader:
    """Reads and extends windows of `capacity` tokens with one model.

    `memory_bytes` bounds the adapters of recently used memories that are kept ready. `fast_memory`
    is the trained fast memory of the model, if there is one.
    """

    def __init__(
        self,
        model: BaseModel,
        capacity: int,
        *,
        memory_bytes: int = 0,
        fast_memory: FastMemory | None = None,
    ) -> None:
        self._model = model
        self._fast_memory = fast_memory
        self.capacity = capacity
        self.memories = Memories(memory_bytes, model.dtype, model.device)

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._model.tokenizer

    def new_slot(self) -> Slot:
        """An empty slot for any memory, with a cache of its own."""
        model = self._model
        kv = KVCache(model.config, capacity=self.capacity, dtype=model.dtype, device=model.device)
        return Slot(kv)

    def bind(self, slot: Slot, memory: SessionMemory | None) -> None:
        """Make `slot` serve `memory`; None is the frozen base. Drops what another memory left."""
        digest = "" if memory is None else memory.levels_digest()
        slot.adapter = None if memory is None else self.memories.adapter(memory)
        if self._fast_memory is not None:
            self._bind_fast(slot, memory, self._fast_memory)
        if slot.levels_digest != digest:
            slot.levels_digest = digest
            slot.forget()

    def _bind_fast(self, slot: Slot, memory: SessionMemory | None, fast_memory: FastMemory) -> None:
        device = self._model.device
        if slot.inputs is None:
            width = fast_memory.config.input_width
            slot.inputs = torch.zeros(self.capacity, width, device=device)
        fast = None if memory is None else written(fast_memory, memory)
        slot.fast = None if fast is None else fast[0].to(device)

    def read(
        self, slot: Slot, tokens: tuple[int, ...], *, score: Sequence[int] = ()
    ) -> WindowReading:
        """Begin reading `tokens`, reusing what the slot holds of them.

        What stands before the tokens at the indices `score` is read again as far as scoring takes.
        """
        before = max(score[0] - 1, 0) if score else len(tokens)
        start = self._reusable(slot, tokens, before=before)
        return WindowReading(self._model, slot, tokens, start, score)

    def extend(self, slot: Slot, token: int) -> TokenReading:
        """Begin reading one token behind what the slot holds."""
        return TokenReading(slot, token)

    def _reusable(self, slot: Slot, tokens: tuple[int, ...], *, before: int) -> int:
        """Tokens in whole chunks that the slot holds, none of them at or behind index `before`.

        The last token is always read again.
        """
        limit = min(slot.aligned, min(before, len(tokens) - 1) // CHUNK_TOKENS * CHUNK_TOKENS)
        while limit and slot.tokens[:limit] != tokens[:limit]:
            limit -= CHUNK_TOKENS
        return max(limit, 0)
