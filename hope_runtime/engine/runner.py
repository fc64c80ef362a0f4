"""Runs what turns wait for: one batched pass over rows of different sessions.

A turn is a generator (turn.py) that yields a `Pass`, the tokens its row must read next, and gets
an `Output` back. The engine collects passes of many turns; this module computes them together.
A pass that runs alone takes the plain path of model/hope.py, bit for bit.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from hope_runtime.engine.fast_memory import beside
from hope_runtime.engine.kv_slots import Row
from hope_runtime.layers.lora import LoraAdapter
from hope_runtime.models.decoder.batched import AdapterStack, RowInput, forward_rows, logits_of_rows
from hope_runtime.models.decoder.forward import FastMemory, forward
from hope_runtime.models.decoder.weights import BaseModel

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """Tokens that `row` reads next, behind what its cache holds.

    `scores` says whether those of the token after the last one are wanted.
    """

    row: Row
    ids: tuple[int, ...]
    scores: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Output:
    """Hidden states of a pass, (T, D), and the next token's scores, (V,), if they were wanted."""

    hidden_TD: Tensor
    logits_V: Tensor | None


class Runner:
    """Computes passes with one model. One thread at a time."""

    def __init__(self, model: BaseModel) -> None:
        self._model = model
        # The stack of the last composition of rows; it mostly stays for many steps.
        self._stack = AdapterStack(model, [])
        self._stacked: list[LoraAdapter | None] = []

    @torch.no_grad()
    def run(self, passes: Sequence[Pass]) -> list[Output]:
        """The output of each pass. Rows of different passes are different rows.

        Either all caches have grown by what was read, or an error was raised and none has.
        """
        hidden = [self._alone(passes[0])] if len(passes) == 1 else self._together(passes)
        wanted = [index for index, one in enumerate(passes) if one.scores]
        scores: dict[int, Tensor] = {}
        if wanted:
            last_BD = torch.stack([hidden[index][-1] for index in wanted])
            scores = dict(zip(wanted, logits_of_rows(self._model, last_BD), strict=True))
        return [Output(states, scores.get(index)) for index, states in enumerate(hidden)]

    def finish(self, work: Generator[Pass, Output, _Result]) -> _Result:
        """Runs one piece of work alone to its end."""
        try:
            wanted = next(work)
            while True:
                wanted = work.send(self.run([wanted])[0])
        except StopIteration as end:
            result: _Result = end.value
            return result

    def _alone(self, one: Pass) -> Tensor:
        ids_BT = torch.tensor([one.ids], device=self._model.device)
        reading = self._beside([one])
        hidden_BTD = forward(
            self._model, ids_BT, cache=one.row.kv, adapter=one.row.adapter, fast_memory=reading
        )
        return hidden_BTD[0]

    def _together(self, passes: Sequence[Pass]) -> list[Tensor]:
        # Rows of one token first, as the batched pass wants them.
        order = sorted(range(len(passes)), key=lambda index: len(passes[index].ids) > 1)
        rows = [
            RowInput(passes[index].ids, passes[index].row.kv, passes[index].row.adapter)
            for index in order
        ]
        stacked = [row.adapter for row in rows if len(row.ids) == 1]
        if len(stacked) != len(self._stacked) or any(
            mine is not theirs for mine, theirs in zip(stacked, self._stacked, strict=True)
        ):
            self._stack, self._stacked = AdapterStack(self._model, stacked), stacked
        reading = self._beside([passes[index] for index in order])
        found = forward_rows(self._model, rows, self._stack, reading)
        return [found[order.index(index)] for index in range(len(passes))]

    def _beside(self, passes: Sequence[Pass]) -> FastMemory | None:
        return beside([one.row for one in passes], [len(one.ids) for one in passes])
