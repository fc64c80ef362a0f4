"""One token of context in each of several sessions, read as one batch: how replies are written.

Rows do not see each other; what they have alone and in a batch agrees up to rounding. Levels and
memories do not change by such tokens, so what was joined of them is kept for the next step.

Shape suffixes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hope_runtime.layers.cms import Theta
from hope_runtime.layers.titans_state import BankState
from hope_runtime.models.hope.model import Context, LayerContext, Thetas, forward
from hope_runtime.models.hope.rows import align, join_rows, take_rows
from hope_runtime.models.hope.served import HopeModel
from hope_runtime.models.hope.state import HopeState, with_context

Banks = tuple[BankState, ...]


class Batch:
    """Reads for one model. One thread at a time."""

    def __init__(self, model: HopeModel) -> None:
        self._model = model
        # Of the last rows: what each had, and all of it as one.
        self._had: list[tuple[object, ...]] = []
        self._thetas: Thetas = ()
        self._banks: list[Banks] = []

    @torch.no_grad()
    def read(
        self, states: Sequence[HopeState], tokens: Sequence[int]
    ) -> tuple[Tensor, list[HopeState]]:
        """Scores of the next tokens (B, V), and the states of one row each after the given ones."""
        config, weights = self._model.config, self._model.weights
        self._join(states)
        # A token sees so many before it; without a bound, windows would grow by each.
        before = config.window - 1
        contexts = align([_without_memories(state.context) for state in states], before)
        context = self._with_memories(join_rows(contexts))
        ids_B1 = torch.tensor(tokens, device=weights.device)[:, None]
        silent = torch.zeros(ids_B1.shape, dtype=torch.bool)
        logits_B1V, after = forward(
            config, weights, ids_B1, context, thetas=self._thetas, write_BT=silent
        )
        bare = _without_memories(after)
        found = []
        for row, state in enumerate(states):
            own = _with_memories_of(take_rows(bare, [row]), state.context)
            found.append(with_context(state, own, ids_B1[row : row + 1]))
        return logits_B1V[:, 0], found

    def _join(self, states: Sequence[HopeState]) -> None:
        """Join the rows' constant parts; again only for other rows or new memories."""
        had: list[tuple[object, ...]] = [
            (state.levels, *map(_banks_of, state.context.layers)) for state in states
        ]
        if len(had) == len(self._had) and all(
            mine is theirs
            for one, other in zip(had, self._had, strict=True)
            for mine, theirs in zip(one, other, strict=True)
        ):
            return
        self._had = had
        config, weights = self._model.config, self._model.weights
        thetas: list[Theta | None] = []
        for level in range(len(config.levels)):
            own = [state.levels[level].theta for state in states]
            if all(theta is None for theta in own):
                thetas.append(None)
                continue
            initial = tuple(tensor[None] for tensor in weights.theta(config, level))
            thetas.append(join_rows([initial if theta is None else theta for theta in own]))
        self._thetas = tuple(thetas)
        layers = zip(*(state.context.layers for state in states), strict=True)
        self._banks = [join_rows([_banks_of(layer) for layer in rows]) for rows in layers]

    def _with_memories(self, context: Context) -> Context:
        layers = tuple(
            _with_banks(layer, banks)
            for layer, banks in zip(context.layers, self._banks, strict=True)
        )
        return replace(context, layers=layers)


_NONE: Banks = ()


def _banks_of(layer: LayerContext) -> Banks:
    return _NONE if layer.fast is None else layer.fast.banks


def _with_banks(layer: LayerContext, banks: Banks) -> LayerContext:
    return layer if layer.fast is None else replace(layer, fast=replace(layer.fast, banks=banks))


def _without_memories(context: Context) -> Context:
    return replace(context, layers=tuple(_with_banks(layer, _NONE) for layer in context.layers))


def _with_memories_of(context: Context, other: Context) -> Context:
    layers = zip(context.layers, other.layers, strict=True)
    return replace(
        context, layers=tuple(_with_banks(layer, _banks_of(old)) for layer, old in layers)
    )
