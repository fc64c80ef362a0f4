"""Predicts a stream token by token in the engine's window, with whatever was learnt by then.

The window is the one that is served (memory/window.py): a pinned prefix, recent tokens, hops at
fixed places. Gives scores and not only a loss, which the engine does not; a test holds it to the
engine's figures. Keys and values are kept while window and terms stay what they are.

Shape suffixes: N tokens, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hope_lab.evaluate.learnt import Beside, Learnt
from hope_runtime.layers.kv_cache import KVCache
from hope_runtime.layers.lora import LoraAdapter
from hope_runtime.models.decoder.forward import forward, logits
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.fast_memory.memory import FastMemoryPass
from hope_runtime.session.window import Window

# Tokens that are predicted together: no more than surely stay in the window when it hops.
CHUNK_TOKENS = 128


class Stream:
    """A text as far as it was read, in a window of `window_tokens`."""

    def __init__(self, model: BaseModel, window_tokens: int) -> None:
        self._model = model
        self._window = Window(window_tokens)
        self._cache = KVCache(
            model.config, capacity=window_tokens, dtype=model.dtype, device=model.device
        )
        self._adapter: LoraAdapter | None = None
        self._carry: Tensor | None = None  # of what stands beside the model
        # Hidden state of the last token that was read.
        self._last_D: Tensor | None = None

    @torch.no_grad()
    def predict(self, ids: Sequence[int], learnt: Learnt) -> tuple[Tensor, Tensor]:
        """Reads the next tokens, at most CHUNK_TOKENS, and gives the scores (N, V), float32, that
        predicted them with what was learnt, and the tokens (N,).

        The stream's first token is predicted from nothing and left out.
        """
        assert 0 < len(ids) <= CHUNK_TOKENS
        window = self._window.append(tuple(ids))
        moved = window.dropped != self._window.dropped
        self._window = window
        # A branch that had written nothing before kept no carry.
        began = learnt.beside is not None and self._carry is None
        if moved or began or learnt.adapter is not self._adapter:
            self._cache.truncate(0)
            self._last_D, self._adapter, self._carry = None, learnt.adapter, None
        tokens = window.tokens
        start = self._cache.length
        model = self._model
        new_1T = torch.tensor([tokens[start:]], device=model.device)
        used = None if learnt.adapter is None else learnt.adapter.to(model.dtype)
        reading = None if learnt.beside is None else self._reading(learnt.beside)
        hidden_TD = forward(model, new_1T, cache=self._cache, adapter=used, fast_memory=reading)[0]
        if reading is not None and reading.after is not None:
            self._carry = reading.after.carry
        if self._last_D is not None:
            hidden_TD = torch.cat([self._last_D[None], hidden_TD])
        self._last_D = hidden_TD[-1]
        count = min(len(ids), len(hidden_TD) - 1)
        logits_NV = logits(model, hidden_TD[None, -1 - count : -1])[0].float()
        return logits_NV, torch.tensor(tokens[len(tokens) - count :], device=model.device)

    def _reading(self, beside: Beside) -> FastMemoryPass:
        """The fast memory beside the next pass."""
        state = beside.begins()
        if self._carry is not None:
            state = replace(state, carry=self._carry)
        return FastMemoryPass(beside.fast_memory, state)
