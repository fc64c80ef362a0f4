"""Batched decoding: what a consolidation lets the base model, or the level it trains, write.

Rows of unequal length are padded on the left, so all of them decode at the same place of the cache.
Batches of rows run side by side.

Shape suffixes: B rows, T tokens, S keys, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from hope_runtime.host_copies import on_device
from hope_runtime.layers.kv_cache import KVCache
from hope_runtime.layers.lora import LoraAdapter
from hope_runtime.learning.workers import Workers
from hope_runtime.models.decoder.forward import forward, logits
from hope_runtime.models.decoder.weights import BaseModel

ROWS = 16
# The same where a step of few rows takes as long as one of many.
DEVICE_ROWS = 128
# Tokens after which such a device is asked whether all replies have ended.
CHECK_EVERY = 8


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
    rows: int | None = None,
) -> list[tuple[int, ...]]:
    """Continuations of `prompts` without their stop tokens.

    `prefix` stands before every prompt and is read once. Greedy at temperature 0, else sampled
    with a generator for each batch. `adapter` is a memory's, in the model's dtype; None is the
    frozen base. Deterministic: prompts run in batches of `rows` in the given order, by default of
    as many as the device is fast with.
    """
    rows = rows or (ROWS if model.device.type == "cpu" else DEVICE_ROWS)
    shared = workers.map(lambda ids: _read_prefix(model, ids, adapter), [prefix] if prefix else [])

    def run(start: int) -> list[list[int]]:
        batch = _Batch(model, prompts[start : start + rows], max_tokens, adapter, *shared)
        return batch.run(stop, temperature, torch.Generator().manual_seed(seed * 1009 + start))

    batches = workers.map(run, range(0, len(prompts), rows))
    return [tuple(reply) for batch in batches for reply in batch]


class _Batch:
    """Rows that decode together; all that a step needs stays on the device."""

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
        rows, device = len(prompts), model.device
        length = max(map(len, prompts))
        padding = [length - len(prompt) for prompt in prompts]
        padded = [(0,) * more + prompt for more, prompt in zip(padding, prompts, strict=True)]
        ids = on_device(list(itertools.chain.from_iterable(padded)), torch.long, device)
        self._ids_BT = ids.view(rows, length)
        self._padding_B = on_device(padding, torch.long, device)
        self._cache = KVCache(
            model.config,
            capacity=self._shared + length + max_tokens,
            rows=rows,
            dtype=model.dtype,
            device=device,
        )
        if shared is not None:
            self._cache.k[:, :, :, : self._shared] = shared.k
            self._cache.v[:, :, :, : self._shared] = shared.v
            self._cache.length = self._shared
        self._chosen: list[Tensor] = []

    @torch.no_grad()
    def run(
        self, stop: frozenset[int], temperature: float, generator: torch.Generator
    ) -> list[list[int]]:
        """The replies, without the tokens that ended them."""
        stop_S = on_device(sorted(stop), torch.long, self._model.device)
        done_B = torch.zeros(len(self._ids_BT), dtype=torch.bool, device=self._model.device)
        # A CPU would compute tokens that nobody wants; a GPU would wait for each answer.
        check_every = 1 if self._model.device.type == "cpu" else CHECK_EVERY
        for count in range(1, self._max_tokens + 1):
            logits_BV = self._scores()
            if temperature:
                # Drawn on the CPU whatever the device, so that a seed means the same everywhere.
                weights_BV = (logits_BV.cpu() / temperature).softmax(-1)
                chosen_B = torch.multinomial(weights_BV, 1, generator=generator)[:, 0]
                chosen_B = chosen_B.to(logits_BV.device)
            else:
                chosen_B = logits_BV.argmax(-1)
            self._chosen.append(chosen_B)
            self._ids_BT = chosen_B[:, None]
            done_B |= torch.isin(chosen_B, stop_S)
            if count % check_every == 0 and bool(done_B.all()):
                break
        return [
            list(itertools.takewhile(lambda token: token not in stop, row))
            for row in torch.stack(self._chosen, dim=1).tolist()
        ]

    def _scores(self) -> Tensor:
        start, count = self._cache.length, self._ids_BT.shape[1]
        device = self._model.device
        at_T = torch.arange(start, start + count, device=device)
        positions_BT = (at_T[None] - self._padding_B[:, None]).clamp(min=0)
        # A row is: the shared prefix, padding, its prompt, its reply.
        keys_S = torch.arange(start + count, device=device)
        causal_TS = keys_S[None] <= at_T[:, None]
        real_BS = (keys_S < self._shared)[None] | (
            keys_S[None] >= self._shared + self._padding_B[:, None]
        )
        # A padded position sees itself, because a row that sees nothing has no softmax.
        itself_TS = keys_S[None] == at_T[:, None]
        mask_BTS = (causal_TS[None] & real_BS[:, None]) | itself_TS[None]
        hidden_BTD = forward(
            self._model,
            self._ids_BT,
            positions_BT=positions_BT,
            cache=self._cache,
            mask_BTS=mask_BTS,
            adapter=self._adapter,
        )
        return logits(self._model, hidden_BTD[:, -1:])[:, 0].float()


@torch.no_grad()
def _read_prefix(model: BaseModel, prefix: tuple[int, ...], adapter: LoraAdapter | None) -> KVCache:
    cache = KVCache(model.config, capacity=len(prefix), dtype=model.dtype, device=model.device)
    forward(model, torch.tensor([prefix], device=model.device), cache=cache, adapter=adapter)
    return cache
