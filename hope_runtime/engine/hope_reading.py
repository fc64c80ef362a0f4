"""Chunks of a HOPE model: computing them alone or as a batch, and reading a text by them.

Shape suffixes: T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor

from hope_runtime.models.hope.batch import Batch
from hope_runtime.models.hope.served import HopeModel
from hope_runtime.models.hope.state import HopeState, has_room
from hope_runtime.models.hope.stream import observe as stream

# Tokens of one chunk; a reply waits for one chunk of another text at most.
CHUNK_TOKENS = 64


@dataclass(frozen=True, slots=True, eq=False)
class HopeForwardChunk:
    """Tokens that a state reads next, and which of them it may learn from."""

    state: HopeState
    ids: tuple[int, ...]
    learn: tuple[bool, ...]


@dataclass(frozen=True, slots=True, eq=False)
class HopeOutput:
    """Logits of the token after each, (T, V), and the state after the last one."""

    logits_TV: Tensor
    state: HopeState


def run(model: HopeModel, chunk: HopeForwardChunk) -> HopeOutput:
    """Compute one chunk alone, so that no bit of the levels depends on what else is served.

    Raises DivergedStateError when learning would make the memory unusable.
    """
    logits_BTV, state = stream(
        model.config,
        model.weights,
        torch.tensor([chunk.ids], device=model.device),
        chunk.state,
        learn_BT=torch.tensor([chunk.learn]),
    )
    return HopeOutput(logits_BTV[0], state)


def is_reply(model: HopeModel, chunk: HopeForwardChunk) -> bool:
    """Whether a chunk is one token of a reply, at which nothing is learnt."""
    return chunk.learn == (False,) and has_room(model.config, chunk.state)


def run_together(batch: Batch, chunks: Sequence[HopeForwardChunk]) -> list[HopeOutput]:
    """Compute chunks for which `is_reply` holds as one batch."""
    states = [one.state for one in chunks]
    logits_BV, after = batch.read(states, [one.ids[0] for one in chunks])
    rows = zip(logits_BV[:, None], after, strict=True)
    return [HopeOutput(logits_1V, state) for logits_1V, state in rows]


class HopeReading:
    """Reading of `ids`, chunk by chunk, learning from those that `learn` marks.

    `chunk` is read next, None once all was read; `accept` takes its output. `state` is the one
    after what was read, `logits` predict the token behind it, `nats` is the summed negative
    log-likelihood of the `scored` tokens that `score` marks, the first one left out.
    """

    def __init__(
        self,
        state: HopeState,
        ids: Sequence[int],
        learn: Sequence[bool],
        *,
        score: Sequence[bool] = (),
    ) -> None:
        assert ids, "there is something to read"
        self.state = state
        self.nats, self.scored = 0.0, 0
        self._ids, self._learn, self._score = ids, learn, score
        self._last_V: Tensor | None = None
        self._start = 0
        self.chunk = self._next_chunk()

    @property
    def logits(self) -> Tensor:
        """Logits of the token behind what was read, (V,)."""
        assert self._last_V is not None, "a chunk was read"
        return self._last_V

    def accept(self, output: HopeOutput) -> None:
        """Take the output of `chunk`."""
        assert self.chunk is not None
        stop = self._start + len(self.chunk.ids)
        self._add_nats(output.logits_TV, self._start, stop)
        self.state, self._last_V = output.state, output.logits_TV[-1]
        self._start = stop
        self.chunk = self._next_chunk()

    def _next_chunk(self) -> HopeForwardChunk | None:
        start, stop = self._start, min(self._start + CHUNK_TOKENS, len(self._ids))
        if start == stop:
            return None
        ids, learn = tuple(self._ids[start:stop]), tuple(self._learn[start:stop])
        return HopeForwardChunk(self.state, ids, learn)

    def _add_nats(self, logits_TV: Tensor, start: int, stop: int) -> None:
        last_V, score, ids = self._last_V, self._score, self._ids
        chosen = [at for at in range(max(start, 1), stop) if score and score[at]]
        if not chosen:
            return
        # Row i of these predicts the token at index `origin + i`.
        made_TV = logits_TV if last_V is None else torch.cat([last_V[None], logits_TV])
        origin = start + 1 if last_V is None else start
        rows_TV = made_TV[torch.tensor(chosen, dtype=torch.int64) - origin]
        targets = torch.tensor([ids[at] for at in chosen], dtype=torch.int64)
        self.nats += float(nnf.cross_entropy(rows_TV.float(), targets, reduction="sum"))
        self.scored += len(chosen)
