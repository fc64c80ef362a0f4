"""Batched decoding: what a consolidation lets the base model, or the level it trains, write.

Rows of unequal length are padded on the left, so all of them decode at the same place of the cache.
Batches of rows run side by side.

Shape suffixes: B rows, T tokens, S keys, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hope_runtime.layers.kv_cache import KVCache
from hope_runtime.layers.lora import LoraAdapter
from hope_runtime.learning.workers import Workers
from hope_runtime.models.decoder.forward import forward, logits
from hope_runtime.models.decoder.weights import BaseModel

ROWS = 16


def decode(
    model: BaseModel,
    workers: Workers,
    prompts: Sequence[tuple[int, ...]],
    *,
    max_tokens: int,
    stop: frozenset[int],
    prefix: tuple[int, ...] = (),
    temperature: float = 0.0,
    seed: int = 0,
    adapter: LoraAdapter | None = None,
    rows: int = ROWS,
) -> list[tuple[int, ...]]:
    """Continuations of `prompts` without their stop tokens.

    `prefix` stands before every prompt and is read once. Greedy at temperature 0, else sampled
    with a generator for each batch. `adapter` is a memory's, in the model's dtype; None is the
    frozen base. Deterministic: prompts run in batches of `rows` in the given order.
    """
    shared = workers.map(lambda ids: _read_prefix(model, ids, adapter), [prefix] if prefix else [])

    def run(start: int) -> list[list[int]]:
        batch = _Batch(model, prompts[start : start + rows], max_tokens, adapter, *shared)
        generator = torch.Generator().manual_seed(seed * 1009 + start)
        while batch.step(stop, temperature, generator):
            pass
        return batch.replies

    batches = workers.map(run, range(0, len(prompts), rows))
    return [tuple(reply) for batch in batches for reply in batch]


class _Batch:
    def __init__(
        self,
        model: BaseModel,
        prompts: Sequence[tuple[int, ...]],
        max_tokens: int,
        adapter: LoraAdapter | None,
        shared: KVCache | None = None,
    ) -> None:
        self._model = model
        self._adapter = adapter
        self._max_tokens = max_tokens
        self._shared = shared.length if shared is not None else 0
        rows = len(prompts)
        length = max(map(len, prompts))
        self._ids_BT = torch.zeros(rows, length, dtype=torch.long)
        self._padding_B = torch.tensor([length - len(prompt) for prompt in prompts])
        for row, prompt in enumerate(prompts):
            self._ids_BT[row, length - len(prompt) :] = torch.tensor(prompt)
        self._cache = KVCache(
            model.config,
            capacity=self._shared + length + max_tokens,
            rows=rows,
            dtype=model.dtype,
            device=model.device,
        )
        if shared is not None:
            self._cache.k[:, :, :, : self._shared] = shared.k
            self._cache.v[:, :, :, : self._shared] = shared.v
            self._cache.length = self._shared
        self.replies: list[list[int]] = [[] for _ in range(rows)]
        self._done = [False] * rows

    @torch.no_grad()
    def step(self, stop: frozenset[int], temperature: float, generator: torch.Generator) -> bool:
        """One token for every row that goes on; False when none does."""
        logits_BV = self._scores()
        if temperature:
            weights_BV = (logits_BV / temperature).softmax(-1)
            chosen_B = torch.multinomial(weights_BV, 1, generator=generator)[:, 0]
        else:
            chosen_B = logits_BV.argmax(-1)
        for row, token in enumerate(chosen_B.tolist()):
            if not self._done[row]:
                if token in stop:
                    self._done[row] = True
                else:
                    self.replies[row].append(token)
        self._ids_BT = chosen_B[:, None]
        self._max_tokens -= 1
        return self._max_tokens > 0 and not all(self._done)

    def _scores(self) -> Tensor:
        start, count = self._cache.length, self._ids_BT.shape[1]
        at_T = torch.arange(start, start + count)
        positions_BT = (at_T[None] - self._padding_B[:, None]).clamp(min=0)
        # A row is: the shared prefix, padding, its prompt, its reply.
        keys_S = torch.arange(start + count)
        causal_TS = keys_S[None] <= at_T[:, None]
        real_BS = (keys_S < self._shared)[None] | (
            keys_S[None] >= self._shared + self._padding_B[:, None]
        )
        # A padded position sees itself, because a row that sees nothing has no softmax.
        itself_TS = keys_S[None] == at_T[:, None]
        mask_BTS = (causal_TS[None] & real_BS[:, None]) | itself_TS[None]
        device = self._model.device
        hidden_BTD = forward(
            self._model,
            self._ids_BT.to(device),
            positions_BT=positions_BT.to(device),
            cache=self._cache,
            mask_BTS=mask_BTS.to(device),
            adapter=self._adapter,
        )
        return logits(self._model, hidden_BTD[:, -1:])[:, 0].float().cpu()


@torch.no_grad()
def _read_prefix(model: BaseModel, prefix: tuple[int, ...], adapter: LoraAdapter | None) -> KVCache:
    cache = KVCache(model.config, capacity=len(prefix), dtype=model.dtype, device=model.device)
    forward(model, torch.tensor([prefix], device=model.device), cache=cache, adapter=adapter)
    return cache
