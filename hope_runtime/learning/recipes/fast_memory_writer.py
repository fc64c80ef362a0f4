"""Writing forward: what a trained branch keeps of a stretch, read once by the frozen base.

The spans of a stretch are put together again into windows, as long as one speaker goes on and at
most WINDOW_TOKENS of them, each behind what a text or a chat begins with. What is written depends
on token ids alone, never on the levels or on a pass that serves; so it is a function of the log.

Shape suffixes: H heads, V value width, K key width.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from functools import partial

import torch

from hope_runtime.learning.level_trainer import finite
from hope_runtime.learning.prompt_prefixes import chat_opening, plain_opening
from hope_runtime.learning.workers import Workers
from hope_runtime.models.decoder.forward import forward
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.fast_memory.memory import (
    FastMemoryPass,
    FastMemoryStream,
    fresh_carry,
    fresh_state,
)
from hope_runtime.models.fast_memory.memory import write as write_fast_memory
from hope_runtime.models.fast_memory.session import with_written, writer_of, written
from hope_runtime.models.fast_memory.weights import FastMemory
from hope_runtime.session.log import Speaker
from hope_runtime.session.memory import SessionMemory, Span

WINDOW_TOKENS = 256

# Ids of its opening, and of what is written.
_Window = tuple[tuple[int, ...], tuple[int, ...]]


class FastMemoryWriter:
    """Writes with one fast memory of one base model, or with an earlier one where that wrote."""

    def __init__(self, model: BaseModel, fast_memory: FastMemory, workers: Workers) -> None:
        self._model = model
        self._fast_memory = fast_memory
        self._workers = workers
        self._earlier = {
            one.digest: FastMemoryWriter(model, one, workers) for one in fast_memory.earlier
        }
        # No layer above the last source says anything that is written.
        top = fast_memory.config.sources[-1]
        self._lower = replace(
            model,
            config=replace(model.config, n_layers=max(top, 1)),
            weights=replace(model.weights, layers=model.weights.layers[: max(top, 1)]),
        )
        tokenizer = model.tokenizer
        self._plain = plain_opening(tokenizer)
        self._chat = chat_opening(tokenizer) if tokenizer.has_chat_template else self._plain

    def write(
        self, memory: SessionMemory, spans: Sequence[Span]
    ) -> Generator[None, None, SessionMemory]:
        """The memory once the spans are written in their order; yields after each window. Raises
        DivergedStateError when the result is not finite."""
        writer = writer_of(self._fast_memory, memory)
        if writer is not self._fast_memory:
            return (yield from self._earlier[writer.digest].write(memory, spans))
        before = written(self._fast_memory, memory)
        state = fresh_state(self._fast_memory.config, 1, self._model.device)
        if before is not None:
            state = replace(state, memory=before.to(self._model.device))
        for window in self._windows(spans):
            (state,) = self._workers.map(partial(self._read, state), [window])
            yield
        kept = finite(state.memory.cpu(), "What was written")
        return with_written(self._fast_memory, memory, kept)

    def _windows(self, spans: Sequence[Span]) -> list[_Window]:
        """Opening and ids of each window. A span that is too long for one has one of its own."""
        windows: list[tuple[Speaker, tuple[int, ...]]] = []
        for span in spans:
            if (
                windows
                and windows[-1][0] is span.speaker
                and len(windows[-1][1]) + len(span.ids) <= WINDOW_TOKENS
            ):
                windows[-1] = (span.speaker, windows[-1][1] + span.ids)
            else:
                windows.append((span.speaker, span.ids))
        return [
            (self._chat if speaker is Speaker.USER else self._plain, ids)
            for speaker, ids in windows
        ]

    @torch.no_grad()
    def _read(self, state: FastMemoryStream, window: _Window) -> FastMemoryStream:
        opening, ids = window
        config, device = self._fast_memory.config, self._model.device
        seen = FastMemoryPass(self._fast_memory, None)
        ids_1T = torch.tensor([opening + ids], device=device)
        learnable_1T = torch.arange(ids_1T.shape[1], device=device)[None] >= len(opening)
        forward(self._lower, ids_1T, fast_memory=seen)
        state = replace(state, carry=fresh_carry(config, 1, device))
        return write_fast_memory(
            config, self._fast_memory.weights, seen.hidden, state, learnable_1T
        )
