"""Tokens of a reply are chosen by our own sampler, so that a seed means what it means natively.

A logits processor of vLLM: it chooses and leaves that token the only possible one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.v1.sample.logits_processor.interface import (
    BatchUpdate,
    LogitsProcessor,
    MoveDirectionality,
)

from hope_runtime.engine.sampling import Sampler, Sampling

# Where the parameters of a turn travel in vLLM's.
KEY = "hope"


class Chooser:
    """The sampler of one turn. Stepping back is possible by one draw: vLLM also asks about rows
    whose prompt was not read to its end, and throws the answer away."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampler = Sampler(sampling)
        self._drawn_at = -1
        self._before: Tensor | None = None

    def choose(self, logits_V: Tensor, reply: list[int]) -> int:
        """Choose the next token of the turn from its logits, (V,)."""
        generator = self._sampler.generator
        if self._before is not None and self._drawn_at == len(reply):
            generator.set_state(self._before)
        self._before, self._drawn_at = generator.get_state(), len(reply)
        return self._sampler.choose(logits_V, reply)


# By number of the turn; one turn may take several requests.
CHOOSERS: dict[int, Chooser] = {}


def extra_arguments(turn: int, sampling: Sampling, reply: tuple[int, ...]) -> dict[str, Any]:
    """Extra arguments of a request; none when its tokens are simply the likeliest ones."""
    if sampling.temperature == 0 and sampling.repetition_penalty == 1:
        return {}
    if turn not in CHOOSERS:
        CHOOSERS[turn] = Chooser(sampling)
    return {KEY: (turn, reply)}


class Choosing(LogitsProcessor):  # type: ignore[misc]
    """Rows of turns that do not just take the likeliest token."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        # By row of the batch: the turn, what it wrote before, and what it writes now.
        self._rows: dict[int, tuple[int, tuple[int, ...], list[int]]] = {}

    def is_argmax_invariant(self) -> bool:
        """Whether greedy choices stay as they are: no."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the rows that vLLM adds, removes and moves."""
        if batch_update is None:
            return
        for row in batch_update.removed:
            self._rows.pop(row, None)
        for row, params, _, output in batch_update.added:
            self._rows.pop(row, None)
            if KEY in (params.extra_args or {}):
                self._rows[row] = (*params.extra_args[KEY], output)
        for source, target, direction in batch_update.moved:
            moved, replaced = self._rows.pop(source, None), self._rows.pop(target, None)
            if moved is not None:
                self._rows[target] = moved
            if replaced is not None and direction is MoveDirectionality.SWAP:
                self._rows[source] = replaced

    def apply(self, logits: Tensor) -> Tensor:
        """Leave only the chosen token possible in each row; logits are (B, V)."""
        for row, (turn, before, output) in self._rows.items():
            token = CHOOSERS[turn].choose(logits[row], [*before, *output])
            logits[row] = float("-inf")
            logits[row, token] = 0.0
        return logits
