"""Reads windows: fills a row's cache so that its last position can predict the next token.

Keys and values are a pure function of (window token ids, memory): whole chunks lie at fixed places
of the window, each computed over the same predecessors, and what was read in another way (a partial
chunk, single decoded tokens) is read again once its chunk is full. So a reply does not depend on
whether its window was resident: alone, not even in the last bit, and beside others, where shapes
are those of the batch, up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hope_runtime.engine.kv_slots import Memories, Row
from hope_runtime.engine.runner import Output, Pass
from hope_runtime.errors import NotFiniteError
from hope_runtime.layers.kv_cache import KVCache
from hope_runtime.models.decoder.forward import logits
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.fast_memory.session import writer_of, written
from hope_runtime.models.fast_memory.weights import FastMemory
from hope_runtime.session.memory import SessionMemory

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


class Reader:
    """Reads and extends windows of `capacity` tokens with one model.

    `memory_bytes` bounds the terms of recently used memories that are kept ready. `branch` is the
    trained fast memory of the model, if there is one.
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
        self._capacity = capacity
        self.memories = Memories(memory_bytes, model.dtype)

    def new_row(self) -> Row:
        """An empty row for any memory, with a slot of its own."""
        model = self._model
        kv = KVCache(model.config, capacity=self._capacity, dtype=model.dtype, device=model.device)
        return Row(kv)

    def bind(self, row: Row, memory: SessionMemory | None) -> None:
        """Makes `row` serve `memory`; None is the frozen base. Drops what another memory left."""
        digest = "" if memory is None else memory.levels_digest()
        row.adapter = None if memory is None else self.memories.adapter(memory)
        if self._fast_memory is not None:
            self._bind_fast(row, memory, self._fast_memory)
        if row.levels_digest == digest:
            return
        row.levels_digest = digest
        row.tokens, row.aligned = (), 0
        row.kv.truncate(0)

    def _bind_fast(self, row: Row, memory: SessionMemory | None, newest: FastMemory) -> None:
        device = self._model.device
        fast_memory = writer_of(newest, memory)
        if row.fast_memory is not fast_memory:
            # What its queries were made of means nothing to another one: the window is read again.
            width = fast_memory.config.input_width
            row.inputs = torch.zeros(self._capacity, width, device=device)
            row.fast_memory = fast_memory
            row.tokens, row.aligned = (), 0
            row.kv.truncate(0)
        fast = None if memory is None else written(fast_memory, memory)
        row.fast = None if fast is None else fast[0].to(device)

    def read(
        self, row: Row, tokens: tuple[int, ...], *, score: Sequence[int] = ()
    ) -> Generator[Pass, Output, Reading]:
        """Reads `tokens`, reusing what the row holds of them, chunk by chunk.

        Also scores the tokens at the ascending indices `score`, but for index 0, which nothing
        predicts. What comes before them is read again as far as that takes. Raises NotFiniteError
        when scores or nats are no numbers.
        """
        start = self._reusable(row, tokens, before=max(score[0] - 1, 0) if score else len(tokens))
        row.kv.truncate(start)
        row.tokens, row.aligned = tokens[:start], start
        nats, scored = 0.0, 0
        output: Output | None = None
        last_D: Tensor | None = None  # hidden state of the position before the chunk
        while start < len(tokens):
            end = min(start + CHUNK_TOKENS, len(tokens))
            output = yield Pass(row, tokens[start:end], scores=end == len(tokens))
            hidden_TD = output.hidden_TD
            # Row i of these states predicts the token at index `origin + i + 1`.
            states_TD = hidden_TD if last_D is None else torch.cat([last_D[None], hidden_TD])
            origin = start if last_D is None else start - 1
            chosen = [index for index in score if origin < index < end]
            if chosen:
                rows = torch.tensor(chosen) - 1 - origin
                nats += self._nats(states_TD[rows], [tokens[index] for index in chosen])
                scored += len(chosen)
            last_D = hidden_TD[-1]
            if end - start == CHUNK_TOKENS:
                row.aligned = end
            start = end
            row.tokens = tokens[:start]
        assert output is not None, "a window holds at least one token"
        return Reading(_finite(row, output, nats), nats, scored)

    def extend(self, row: Row, token: int) -> Generator[Pass, Output, Tensor]:
        """Appends one token and returns the scores of the next one, (V,). Raises NotFiniteError."""
        output = yield Pass(row, (token,))
        row.tokens += (token,)
        return _finite(row, output)

    def _reusable(self, row: Row, tokens: tuple[int, ...], *, before: int) -> int:
        """Tokens in whole chunks that the row holds, none of them at or behind index `before`.

        The last token is always read again.
        """
        limit = min(row.aligned, min(before, len(tokens) - 1) // CHUNK_TOKENS * CHUNK_TOKENS)
        while limit and row.tokens[:limit] != tokens[:limit]:
            limit -= CHUNK_TOKENS
        return max(limit, 0)

    @torch.no_grad()
    def _nats(self, states_TD: Tensor, targets: list[int]) -> float:
        logits_TV = logits(self._model, states_TD[None])[0].float()
        wanted = torch.tensor(targets, device=logits_TV.device)
        return float(torch.nn.functional.cross_entropy(logits_TV, wanted, reduction="sum"))


def _finite(row: Row, output: Output, nats: float = 0.0) -> Tensor:
    """The scores of a pass. What is no number came from the cache or went into it, so then the row
    forgets all it holds."""
    logits_V = output.logits_V
    assert logits_V is not None
    # The largest is NaN where any is.
    if math.isfinite(logits_V.max()) and math.isfinite(nats):
        return logits_V
    row.tokens, row.aligned = (), 0
    row.kv.truncate(0)
    for cache in (row.kv.k, row.kv.v):
        cache.zero_()  # a mask times NaN is NaN
    raise NotFiniteError(
        "The model computed no finite number for the next token; nothing of the turn was kept."
    )
