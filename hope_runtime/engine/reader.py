"""Reads windows: fills a row's cache so that its last position can predict the next token.

Keys and values are a pure function of (window token ids, memory): whole chunks lie at fixed places
of the window, each is always computed by the same shapes over the same predecessors, and what was
read in another way (a partial chunk, single decoded tokens) is read again once its chunk is full.
So a reply does not depend on whether its window was resident, not even in the last bit.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hope_runtime.engine.arena import Row
from hope_runtime.memory.state import SessionMemory
from hope_runtime.model.attention import KVCache
from hope_runtime.model.hope import forward, logits
from hope_runtime.model.weights import BaseModel

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
    """Reads and extends windows of `capacity` tokens with one model."""

    def __init__(self, model: BaseModel, capacity: int) -> None:
        self._model = model
        self._capacity = capacity

    def new_row(self) -> Row:
        """An empty row for any memory."""
        model = self._model
        kv = KVCache(model.config, capacity=self._capacity, dtype=model.dtype, device=model.device)
        return Row(kv)

    def bind(self, row: Row, memory: SessionMemory | None) -> None:
        """Makes `row` serve `memory`; None is the frozen base. Drops what another memory left."""
        digest = "" if memory is None else memory.levels_digest()
        if row.levels_digest == digest:
            return
        terms = None if memory is None else memory.terms
        row.terms = None if terms is None else terms.to(self._model.dtype)
        row.levels_digest = digest
        row.tokens, row.aligned = (), 0
        row.kv.truncate(0)

    def read(
        self, row: Row, tokens: tuple[int, ...], *, score: Sequence[int] = ()
    ) -> Generator[None, None, Reading]:
        """Reads `tokens`, reusing what the row holds of them; yields between chunks.

        Also scores the tokens at the ascending indices `score`, but for index 0, which nothing
        predicts. What comes before them is read again as far as that takes.
        """
        start = self._reusable(row, tokens, before=max(score[0] - 1, 0) if score else len(tokens))
        row.kv.truncate(start)
        row.tokens, row.aligned = tokens[:start], start
        nats, scored = 0.0, 0
        last_D: Tensor | None = None  # hidden state of the position before the chunk
        while start < len(tokens):
            end = min(start + CHUNK_TOKENS, len(tokens))
            hidden_TD = self._forward(row, tokens[start:end])
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
            yield
        assert last_D is not None, "a window holds at least one token"
        return Reading(self._logits(last_D), nats, scored)

    def extend(self, row: Row, token: int) -> Tensor:
        """Appends one token and returns the scores of the next one, (V,)."""
        hidden_TD = self._forward(row, (token,))
        row.tokens += (token,)
        return self._logits(hidden_TD[-1])

    def _reusable(self, row: Row, tokens: tuple[int, ...], *, before: int) -> int:
        """Tokens in whole chunks that the row holds, none of them at or behind index `before`.

        The last token is always read again.
        """
        limit = min(row.aligned, min(before, len(tokens) - 1) // CHUNK_TOKENS * CHUNK_TOKENS)
        while limit and row.tokens[:limit] != tokens[:limit]:
            limit -= CHUNK_TOKENS
        return max(limit, 0)

    @torch.no_grad()
    def _forward(self, row: Row, chunk: tuple[int, ...]) -> Tensor:
        ids_BT = torch.tensor([chunk], device=self._model.device)
        return forward(self._model, ids_BT, cache=row.kv, terms=row.terms)[0]

    @torch.no_grad()
    def _logits(self, hidden_D: Tensor) -> Tensor:
        return logits(self._model, hidden_D[None, None])[0, 0]

    @torch.no_grad()
    def _nats(self, states_TD: Tensor, targets: list[int]) -> float:
        scores_TV = logits(self._model, states_TD[None])[0].float()
        wanted = torch.tensor(targets, device=scores_TV.device)
        return float(torch.nn.functional.cross_entropy(scores_TV, wanted, reduction="sum"))
