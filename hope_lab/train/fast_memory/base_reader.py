"""Batched passes of the frozen base over many short texts, for what a fast memory sees of them.

Texts of one opening share its keys and values; rows of like length run together. Knows token ids
and layers, no stories.

Shape suffixes: B rows, T tokens, X values a token at the sources, D model width, A places of an
item, N rivals, W taps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hope_lab.train.fast_memory.episodes import Ids
from hope_runtime.layers.kv_cache import KVCache
from hope_runtime.layers.norm import rms_norm
from hope_runtime.models.decoder.forward import forward, logits
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.fast_memory.weights import FastMemoryConfig

RIVALS = 2
# Tokens of a batch. More rows make no step faster on a CPU.
CPU_TOKENS, GPU_TOKENS = 512, 32_768


@dataclass(frozen=True, slots=True)
class Item:
    """`seen` (W - 1 + A, X) and `final` (A, D) float16, `rivals` (A, N): where each of A tokens is
    predicted, the stream there and what the base itself would say."""

    seen: Tensor
    final: Tensor
    rivals: Tensor


class BaseReader:
    """Reads with one base for one configuration of a fast memory."""

    def __init__(self, model: BaseModel, config: FastMemoryConfig) -> None:
        self._model, self._config = model, config
        # What is only told needs no layer above the sources.
        top = config.sources[-1]
        self._lower = replace(
            model,
            config=replace(model.config, n_layers=top),
            weights=replace(model.weights, layers=model.weights.layers[:top]),
        )
        self._openings: dict[Ids, tuple[KVCache, Tensor]] = {}

    def told(self, rows: Sequence[tuple[Ids, Ids]]) -> list[Tensor]:
        """Of each opening and text: (W + T, X) float16, from the last W tokens of the opening."""
        found = self._by_opening(rows, self._lower)
        return [
            torch.cat((self._tail(opening), seen))
            for (opening, _), (seen, _) in zip(rows, found, strict=True)
        ]

    def items(self, rows: Sequence[tuple[Ids, Ids, Ids]]) -> list[Item]:
        """Of each opening, prompt and answer: the places where the answer is predicted."""
        # What the last token would predict is nobody's question.
        texts = [(opening, prompt + answer[:-1]) for opening, prompt, answer in rows]
        items = []
        for (opening, prompt, _), (seen_TX, final_TD) in zip(
            rows, self._by_opening(texts, self._model), strict=True
        ):
            first = len(prompt) - 1
            whole = torch.cat((self._tail(opening), seen_TX))
            # Behind W places of the opening and the prompt's own before `first`.
            seen = whole[first + 1 :].clone()
            final = final_TD[first:].clone()
            items.append(Item(seen, final, self._rivals(final)))
        return items

    def _rivals(self, final_AD: Tensor) -> Tensor:
        model = self._model
        normed = rms_norm(final_AD.to(model.dtype), model.weights.final_norm, model.config.norm_eps)
        return logits(model, normed).topk(RIVALS, dim=-1).indices.view(-1, RIVALS).cpu()

    def _tail(self, opening: Ids) -> Tensor:
        """The last W tokens of an opening at the sources, (W, X), behind zeros if it is shorter."""
        tail_TX = self._opening(opening)[1][-self._config.taps :]
        missing = self._config.taps - len(tail_TX)
        return torch.cat((tail_TX.new_zeros(missing, tail_TX.shape[1]), tail_TX))

    def _opening(self, opening: Ids) -> tuple[KVCache, Tensor]:
        """The cache of what texts begin with, and its stream at the sources, (T, X)."""
        if opening not in self._openings:
            cache = _cache(self._model, 1, len(opening))
            keep = _Keep(self._config.sources)
            with torch.no_grad():
                ids = torch.tensor([opening], device=self._model.device)
                forward(self._model, ids, cache=cache, fast_memory=keep)
            self._openings[opening] = cache, keep.seen()[0]
        return self._openings[opening]

    def _by_opening(
        self, rows: Sequence[tuple[Ids, Ids]], model: BaseModel
    ) -> list[tuple[Tensor, Tensor]]:
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for opening in dict.fromkeys(opening for opening, _ in rows):
            members = [index for index, row in enumerate(rows) if row[0] == opening]
            texts = [rows[index][1] for index in members]
            found |= zip(members, self._run(opening, texts, model), strict=True)
        return [found[index] for index in range(len(rows))]

    @torch.no_grad()
    def _run(
        self, opening: Ids, rows: Sequence[Ids], model: BaseModel
    ) -> list[tuple[Tensor, Tensor]]:
        """Of each row, behind the opening: the stream at the sources and behind the last block."""
        prefix, _ = self._opening(opening)
        L, D, P = model.config.n_layers, self._config.d_model, prefix.length
        budget = CPU_TOKENS if model.device.type == "cpu" else GPU_TOKENS
        found: dict[int, tuple[Tensor, Tensor]] = {}
        order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
        start = 0
        while start < len(order):
            T = len(rows[order[start]])
            members = order[start : start + max(1, budget // T)]
            start += len(members)
            B = len(members)
            # Padding stands behind a row's own tokens, which do not see it.
            padded = [rows[index] + (0,) * (T - len(rows[index])) for index in members]
            cache = _cache(model, B, P + T)
            cache.k[:, :, :, :P], cache.v[:, :, :, :P] = prefix.k[:L], prefix.v[:L]
            cache.length = P
            keep = _Keep((*self._config.sources, L))
            forward(model, torch.tensor(padded, device=model.device), cache=cache, fast_memory=keep)
            seen_BTX = keep.seen()
            for row, index in enumerate(members):
                own = seen_BTX[row, : len(rows[index])]
                found[index] = own[:, :-D], own[:, -D:]
        return [found[index] for index in range(len(rows))]


class _Keep:
    """Keeps the residual stream at some layers and adds nothing."""

    def __init__(self, layers: Sequence[int]) -> None:
        self._layers = layers
        self._seen: list[Tensor] = []

    def at(self, layer: int, x_BTD: Tensor) -> Tensor:
        self._seen += [x_BTD.half() for wanted in self._layers if wanted == layer]
        return x_BTD

    def seen(self) -> Tensor:
        """(B, T, X) float16."""
        return torch.cat(self._seen, dim=-1)


def _cache(model: BaseModel, rows: int, capacity: int) -> KVCache:
    return KVCache(
        model.config, rows=rows, capacity=capacity, dtype=model.dtype, device=model.device
    )
