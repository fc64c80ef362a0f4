"""State of sessions while a HOPE model reads and learns from their streams (stream.py).

Two contexts, that at the start of the segment and that after the last token, and the tokens between
them; and what each level has learnt and gathered. Its size does not depend on the stream's length.

Shape suffixes: B rows, T tokens, N tokens of a segment.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor

from hope_runtime.errors import DivergedStateError
from hope_runtime.layers.cms import LevelState
from hope_runtime.layers.tree import named_tensors
from hope_runtime.models.hope.config import HopeConfig
from hope_runtime.models.hope.model import Context, Thetas, fresh_context
from hope_runtime.models.hope.weights import HopeWeights

# A tensor of a state with a norm beyond this is taken for a runaway; rows of fast memories are
# bounded far below it (titans.py), and weights of a level have no business near it.
STATE_LIMIT = 1e4


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens read since the last end of a segment, with all that learning from them needs.

    start: the context before them; ids_BN and learnable_BN the tokens, length_B of them a row;
    the rest is padding. length_B is int64 on the CPU.
    """

    start: Context
    ids_BN: Tensor
    learnable_BN: Tensor
    length_B: Tensor

    def with_tokens(self, ids_BT: Tensor, learnable_BT: Tensor, lengths_B: Tensor) -> Segment:
        """The segment with each row's tokens behind those that it holds."""
        N = self.ids_BN.shape[1]
        place = torch.arange(N)
        behind = place - self.length_B[:, None]
        new = (behind >= 0) & (behind < lengths_B[:, None])
        at = behind.clamp(0, ids_BT.shape[1] - 1)
        device = self.ids_BN.device
        ids = torch.where(new.to(device), ids_BT.gather(1, at.to(device)), self.ids_BN)
        flags = torch.where(
            new.to(device), learnable_BT.gather(1, at).to(device), self.learnable_BN
        )
        return Segment(self.start, ids, flags, self.length_B + lengths_B)


@dataclass(frozen=True, slots=True)
class HopeState:
    """State of B sessions. Immutable: reading on returns a new one.

    context: after the last token. observed_B: learnable tokens so far, int64 on the CPU. levels:
    one LevelState a level of the configuration; segment: None when no level learns.
    """

    context: Context
    observed_B: Tensor
    levels: tuple[LevelState, ...]
    segment: Segment | None

    @property
    def rows(self) -> int:
        """B."""
        return len(self.observed_B)

    @property
    def thetas(self) -> Thetas:
        """The rows' own weights of each level, for `forward`."""
        return tuple(level.theta for level in self.levels)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors; those still shared with the weights are counted too."""
        return sum(tensor.nbytes for _, tensor in named_tensors(self))


@torch.no_grad()
def fresh_state(config: HopeConfig, weights: HopeWeights, rows: int) -> HopeState:
    """B sessions that have seen nothing: the model as it was trained, bit for bit."""
    context = fresh_context(config, weights, rows)
    zeros = torch.zeros(rows, dtype=torch.int64)
    levels = tuple(LevelState(None, None, (), zeros) for _ in config.levels)
    segment = None
    if config.segment:
        ids = torch.zeros(rows, config.segment, dtype=torch.int64, device=weights.device)
        segment = Segment(context, ids, torch.zeros_like(ids, dtype=torch.bool), zeros)
    return HopeState(context, zeros, levels, segment)


def has_room(config: HopeConfig, state: HopeState) -> bool:
    """Whether one more token in each row would end no segment, if it is context only."""
    return state.segment is None or int(state.segment.length_B.max()) < config.segment


def with_context(state: HopeState, context: Context, ids_B1: Tensor) -> HopeState:
    """The state after one token of context in each row, behind which they have `context`.

    For whoever reads such tokens by `forward`, where `has_room` says that nothing else is to do.
    """
    segment = state.segment
    if segment is not None:
        silent = torch.zeros(ids_B1.shape, dtype=torch.bool)
        segment = segment.with_tokens(ids_B1, silent, torch.ones(state.rows, dtype=torch.int64))
    return replace(state, context=context, segment=segment)


def check_bounds(state: HopeState, before: HopeState | None = None) -> None:
    """Raise DivergedStateError, naming the rows, unless all memories are finite and bounded.

    Tensors that `before` has as well are not looked at again: most tokens change no level.
    """
    known = set() if before is None else {id(tensor) for tensor in _memories(before)}
    bad = torch.zeros(state.rows, dtype=torch.bool)
    for tensor in _memories(state):
        if id(tensor) not in known:
            norm = torch.linalg.vector_norm(tensor.flatten(1), dim=1)
            bad |= ~(norm <= STATE_LIMIT).cpu()
    if bool(bad.any()):
        rows = tuple(int(row) for row in bad.nonzero()[:, 0])
        raise DivergedStateError(
            f"learning would make the memory of row {rows[0]} diverge; its state was left as it "
            "was before these tokens",
            rows=rows,
        )


def _memories(state: HopeState) -> Iterator[Tensor]:
    """All memories as they are after the last token: Titans memories and levels."""
    for layer in state.context.layers:
        for bank in () if layer.fast is None else layer.fast.banks:
            yield from (*bank.running, *bank.velocity)
    for level in state.levels:
        yield from (*(level.theta or ()), *(level.gathered or ()), *chain(*level.optimiser))
