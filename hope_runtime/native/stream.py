"""Reading a stream and learning from it: a native model's memories while it is served.

Fast memories are written as tokens are read (model.py). Levels learn by Eq. 71 from the loss of
next-token prediction, a real backward pass through the blocks above (the gradient of the final
loss, truncated to a segment). The paper shows no inference algorithm; this is our reading:

- A token is *observed* once it arrives. Its loss is that of the prediction made for it, under the
  weights of that time; then, at a multiple of C observed tokens, a level changes; then the token
  is read, under the new weights. So after N tokens a level has changed floor(N / C) times, each
  token is predicted, scored and read under one set of weights, and the first token has no loss.
- Only learnable tokens are observed: they have a loss, they count and they write. The others are
  read as context. Both fill a segment, which ends at a boundary of the fastest level or when it
  is full; there gradients are gathered, and the state that they started from moves on.

A state holds two contexts, that at the start of the segment and that after the last token, and the
tokens between them. So any cut of the stream, one token at a time or all at once, gives the same
state, and its size does not depend on the length of the stream.

Shape suffixes: B rows, T tokens, N tokens of a segment, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
import torch.nn.functional as nnf
from torch import Tensor

from hope_runtime.errors import DivergedStateError, InvalidRequestError
from hope_runtime.memory.continuum import (
    GradientDescent,
    LevelState,
    Theta,
    UpdateRule,
    gather,
    restart,
    update,
)
from hope_runtime.native.config import NativeConfig
from hope_runtime.native.model import Context, Thetas, forward, fresh_context
from hope_runtime.native.rows import align, put_rows, take_rows
from hope_runtime.native.tree import map_tensors, named_tensors
from hope_runtime.native.weights import NativeWeights

# A tensor of a state with a norm beyond this is taken for a runaway; rows of fast memories are
# bounded far below it (titans.py), and weights of a level have no business near it.
STATE_LIMIT = 1e4


@dataclass(frozen=True, slots=True)
class Segment:
    """What is needed to learn from the tokens read since the last end of a segment.

    start: the context before them; ids_BN and learnable_BN the tokens, length_B of them a row;
    the rest is padding. length_B is int64 on the CPU.
    """

    start: Context
    ids_BN: Tensor
    learnable_BN: Tensor
    length_B: Tensor


@dataclass(frozen=True, slots=True)
class NativeState:
    """Everything that B sessions carry. Immutable: reading on returns a new one.

    context: after the last token. observed_B: learnable tokens so far, int64 on the CPU. levels:
    one LevelState a level of the configuration; segment: None when no level learns.
    """

    context: Context
    observed_B: Tensor
    levels: tuple[LevelState, ...]
    segment: Segment | None

    @property
    def rows(self) -> int:
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
def fresh_state(config: NativeConfig, weights: NativeWeights, rows: int) -> NativeState:
    """B sessions that have seen nothing: the model as it was trained, bit for bit."""
    context = fresh_context(config, weights, rows)
    zeros = torch.zeros(rows, dtype=torch.int64)
    levels = tuple(LevelState(None, None, (), zeros) for _ in config.levels)
    segment = None
    if config.segment:
        ids = torch.zeros(rows, config.segment, dtype=torch.int64, device=weights.device)
        segment = Segment(context, ids, torch.zeros_like(ids, dtype=torch.bool), zeros)
    return NativeState(context, zeros, levels, segment)


@torch.no_grad()
def observe(
    config: NativeConfig,
    weights: NativeWeights,
    ids_BT: Tensor,
    state: NativeState,
    *,
    mask_BT: Tensor | None = None,
    learn_BT: Tensor | bool = True,
    rule: UpdateRule | None = None,
) -> tuple[Tensor, NativeState]:
    """Reads tokens and learns from them: logits of the next token (B, T, V), and the new state.

    Tokens where `mask_BT` (bool) is False do not exist: they change nothing, no counter either, and
    their logits are zero. Tokens where `learn_BT` is False are context only: no loss, no count and
    no write. `rule` is f of Eq. 71 (default: the gradient itself). Nothing given is changed.

    Raises InvalidRequestError for ids outside the vocabulary, and DivergedStateError, which names
    the rows, when the new state would hold numbers that are not finite or are beyond STATE_LIMIT.
    """
    _check_ids(config, ids_BT, state)
    before = state
    learnable = torch.full(ids_BT.shape, True) if learn_BT is True else learn_BT
    learnable = torch.full(ids_BT.shape, False) if learnable is False else learnable
    assert isinstance(learnable, Tensor)
    learnable_BT = learnable.cpu()
    lengths_B, order = None, None
    if mask_BT is not None and not bool(mask_BT.all()):
        # The tokens that exist come first in their row; the rest is padding behind them.
        lengths_B = mask_BT.cpu().sum(1)
        order = mask_BT.cpu().logical_not().to(torch.uint8).argsort(dim=1, stable=True)
        ids_BT = ids_BT.gather(1, order.to(ids_BT.device))
        learnable_BT = learnable_BT.gather(1, order)
    reader = _Reader(config, weights, state, rule or GradientDescent())
    scores_BTV, state = reader.read(ids_BT, learnable_BT, lengths_B)
    if order is not None:
        assert mask_BT is not None
        back = order.argsort(dim=1).to(scores_BTV.device)
        scores_BTV = scores_BTV.gather(1, back[..., None].expand_as(scores_BTV))
        hidden = ~mask_BT.to(scores_BTV.device)[..., None]
        scores_BTV = scores_BTV.masked_fill(hidden, 0.0)
    check_bounds(state, before)
    return scores_BTV, state


@torch.no_grad()
def flush(
    config: NativeConfig,
    weights: NativeWeights,
    state: NativeState,
    *,
    rule: UpdateRule | None = None,
) -> NativeState:
    """Levels learn at once what they have gathered of unfinished chunks; nothing else ever does.

    The last token still waits for its target. Counters and later boundaries stay where they are;
    `updates_B` counts the flush. Raises DivergedStateError.
    """
    if state.segment is None:
        return state
    flushed = _Reader(config, weights, state, rule or GradientDescent()).flush(learn=True)
    check_bounds(flushed, state)
    return flushed


@torch.no_grad()
def end_segments(config: NativeConfig, weights: NativeWeights, state: NativeState) -> NativeState:
    """The state with the gradients of its open segments gathered and nothing learnt: each row may
    go on from another context. The last token of a row never gets its target."""
    if state.segment is None:
        return state
    return _Reader(config, weights, state, GradientDescent()).flush(learn=False)


def has_room(config: NativeConfig, state: NativeState) -> bool:
    """Whether one more token in each row would end no segment, if it is context only."""
    return state.segment is None or int(state.segment.length_B.max()) < config.segment


def with_context(state: NativeState, context: Context, ids_B1: Tensor) -> NativeState:
    """The state after one token of context in each row, behind which they have `context`.

    For whoever reads such tokens by `forward`, where `has_room` says that nothing else is to do.
    """
    segment = state.segment
    if segment is not None:
        silent = torch.zeros(ids_B1.shape, dtype=torch.bool)
        segment = _remembered(segment, ids_B1, silent, torch.ones(state.rows, dtype=torch.int64))
    return replace(state, context=context, segment=segment)


def check_bounds(state: NativeState, before: NativeState | None = None) -> None:
    """Raises DivergedStateError, naming the rows, unless all memories are finite and bounded.

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
            f"learning would make the memory of row {rows[0]} unusable; "
            "its state is as it was before these tokens",
            rows=rows,
        )


def _memories(state: NativeState) -> Iterator[Tensor]:
    """Everything learnt, as it is after the last token: fast memories and levels."""
    for layer in state.context.layers:
        for bank in () if layer.fast is None else layer.fast.banks:
            yield from (*bank.running, *bank.velocity)
    for level in state.levels:
        yield from (*(level.theta or ()), *(level.gathered or ()), *chain(*level.optimiser))


def _check_ids(config: NativeConfig, ids_BT: Tensor, state: NativeState) -> None:
    if ids_BT.dim() != 2 or ids_BT.shape[0] != state.rows or not ids_BT.shape[1]:
        raise InvalidRequestError(
            f"ids are {tuple(ids_BT.shape)} and should be ({state.rows}, at least 1)", field="ids"
        )
    low, high = ids_BT.aminmax()
    if int(low) < 0 or int(high) >= config.backbone.vocab_size:
        raise InvalidRequestError(
            f"token ids lie in [0, {config.backbone.vocab_size})", field="ids"
        )


class _Reader:
    """One call of `observe`: the state as it grows, replaced and never changed in place."""

    def __init__(
        self, config: NativeConfig, weights: NativeWeights, state: NativeState, rule: UpdateRule
    ) -> None:
        self.config, self.weights, self.rule = config, weights, rule
        self.state = state
        self.initial = [weights.theta(config, level) for level in range(len(config.levels))]

    def read(
        self, ids_BT: Tensor, learnable_BT: Tensor, lengths_B: Tensor | None
    ) -> tuple[Tensor, NativeState]:
        B, T = ids_BT.shape
        lengths = [T] * B if lengths_B is None else [int(n) for n in lengths_B]
        # Of each row: tokens read, and tokens observed; they differ after a boundary.
        read, seen = [0] * B, [0] * B
        pieces: list[tuple[list[int], list[int], Tensor]] = []
        while self.state.segment is not None:
            ends = self._segment_ends(learnable_BT, read, seen, lengths)
            groups: dict[tuple[int, int], list[int]] = {}
            for row, end in enumerate(ends):
                if end is not None:
                    held = int(self.state.segment.length_B[row])
                    groups.setdefault((held, end - read[row]), []).append(row)
            if not groups:
                break
            for (held, fresh), rows in groups.items():
                starts = [read[row] for row in rows]
                scores = self._learn(ids_BT, learnable_BT, rows, starts, held, fresh, seen)
                if scores is not None:
                    pieces.append((rows, starts, scores))
                for row in rows:
                    read[row] += fresh
                    seen[row] = read[row] + 1
        self._advance(ids_BT, learnable_BT, read, seen, lengths, pieces)
        return _assembled(pieces, ids_BT, self.weights), self.state

    def _segment_ends(
        self, learnable_BT: Tensor, read: list[int], seen: list[int], lengths: list[int]
    ) -> list[int | None]:
        """Of each row the next token at whose arrival its segment is done, if it is here."""
        segment = self.state.segment
        assert segment is not None
        period = self.config.levels[0].period_tokens
        ends: list[int | None] = []
        for row, length in enumerate(lengths):
            full = read[row] + self.config.segment - int(segment.length_B[row])
            ready = max(full, seen[row])
            missing = period - int(self.state.observed_B[row]) % period
            counts = learnable_BT[row, seen[row] : length].cumsum(0)
            boundary = int(torch.searchsorted(counts, missing)) + seen[row]
            end = min(ready, boundary)
            ends.append(end if end < length else None)
        return ends

    def _learn(
        self,
        ids_BT: Tensor,
        learnable_BT: Tensor,
        rows: list[int],
        starts: list[int],
        held: int,
        fresh: int,
        seen: list[int],
    ) -> Tensor | None:
        """Ends the segment of rows that agree on its tokens: `held` old and `fresh` new ones.

        The new token behind them is observed, as the last target, and not yet read. Returns the
        logits of the fresh tokens.
        """
        segment = self.state.segment
        assert segment is not None
        whole = len(rows) == self.state.rows
        at = torch.tensor(starts)[:, None] + torch.arange(fresh + 1)
        picked_ids = ids_BT if whole else ids_BT[torch.tensor(rows, device=ids_BT.device)]
        new_ids = picked_ids.gather(1, at.to(ids_BT.device))
        new_learnable = learnable_BT[rows].gather(1, at)
        part = segment if whole else take_rows(segment, rows)
        ids_RN = torch.cat((part.ids_BN[:, :held], new_ids), dim=1)
        learnable_RN = torch.cat((part.learnable_BN[:, :held].cpu(), new_learnable), dim=1)
        observed = self.state.observed_B.clone()
        for index, row in enumerate(rows):
            observed[row] += int(new_learnable[index, seen[row] - starts[index] :].sum())
        due = torch.zeros(self.state.rows, dtype=torch.bool)
        due[rows] = learnable_RN[:, -1]
        scores = self._end_segment(ids_RN, learnable_RN, rows, part.start, observed, due, False)
        return None if scores is None or not fresh else scores[:, held:]

    def _end_segment(
        self,
        ids_RN: Tensor,
        learnable_RN: Tensor,
        rows: list[int],
        start: Context,
        observed_B: Tensor,
        due_B: Tensor,
        flushing: bool,
    ) -> Tensor | None:
        """Reads all but the last token with gradients, learns, and moves the segment's start."""
        scores, levels, end = None, list(self.state.levels), start
        if ids_RN.shape[1] > 1:
            scores, gradients, end = self._backward(ids_RN, learnable_RN, rows, start)
            for level, gradient in gradients.items():
                levels[level] = gather(levels[level], self._spread(gradient, rows))
        if bool(due_B.any()):
            levels = self._at_boundary(levels, observed_B, due_B, flushing)
        old = self.state
        assert old.segment is not None
        # Emptied, not only marked as empty: equal states have equal tensors.
        ended = torch.zeros(old.rows, 1, dtype=torch.bool)
        ended[rows] = True
        on_device = ended.to(ids_RN.device)
        segment = Segment(
            _with_rows(old.segment.start, rows, end),
            old.segment.ids_BN.masked_fill(on_device, 0),
            old.segment.learnable_BN.masked_fill(on_device, False),
            old.segment.length_B.masked_fill(ended[:, 0], 0),
        )
        self.state = NativeState(
            _with_rows(old.context, rows, end), observed_B, tuple(levels), segment
        )
        return scores

    def _backward(
        self, ids_RN: Tensor, learnable_RN: Tensor, rows: list[int], start: Context
    ) -> tuple[Tensor, dict[int, Theta], Context]:
        """Logits, each level's gradient of the summed loss, and the context after the inputs."""
        config, weights = self.config, self.weights.detached()
        targets, counted = ids_RN[:, 1:], learnable_RN[:, 1:]
        thetas = self._thetas(rows)
        learning = config.learning_levels if bool(counted.any()) else ()
        with torch.enable_grad():
            leaves: list[Theta | None] = list(thetas)
            for level in learning:
                theta = thetas[level]
                if theta is None:
                    # A view a row, so that each row has a gradient of its own and none a copy.
                    theta = tuple(t.expand(len(rows), *t.shape) for t in self.initial[level])
                leaves[level] = tuple(t.detach().requires_grad_() for t in theta)
            write = None if bool(learnable_RN.all()) else learnable_RN[:, :-1]
            scores, end = forward(
                config, weights, ids_RN[:, :-1], start, thetas=tuple(leaves), write_BT=write
            )
            if not learning:
                return scores.detach(), {}, _detached(end)
            nats = nnf.cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction="none")
            chosen = counted.flatten().to(nats.device)
            # Chosen, not multiplied: a target that does not count may have an infinite loss.
            loss = nats.masked_fill(~chosen, 0.0).sum()
            flat = [tensor for level in learning for tensor in (leaves[level] or ())]
            parts = iter(torch.autograd.grad(loss, flat, allow_unused=True))
        gradients = {
            level: tuple(
                torch.zeros_like(tensor) if part is None else part
                for tensor, part in zip(leaves[level] or (), parts, strict=False)
            )
            for level in learning
        }
        return scores.detach(), gradients, _detached(end)

    def _at_boundary(
        self, levels: list[LevelState], observed_B: Tensor, due_B: Tensor, flushing: bool
    ) -> list[LevelState]:
        config = self.config
        due = {
            level: due_B
            if flushing
            else due_B & (observed_B % config.levels[level].period_tokens == 0)
            for level in config.learning_levels
        }
        for level, rows_due in due.items():
            rate = config.levels[level].learning_rate
            levels[level] = update(levels[level], self.initial[level], self.rule, rate, rows_due)
        if config.variant == "nested" and not flushing:
            for level in config.learning_levels[:-1]:
                slower = due[level + 1]
                levels[level] = restart(levels[level], self.initial[level], self.rule, slower)
        return levels

    def _advance(
        self,
        ids_BT: Tensor,
        learnable_BT: Tensor,
        read: list[int],
        seen: list[int],
        lengths: list[int],
        pieces: list[tuple[list[int], list[int], Tensor]],
    ) -> None:
        """Reads what is left of each row without gradients, and remembers it for its segment."""
        counts = [length - start for length, start in zip(lengths, read, strict=True)]
        most = max(counts)
        if not most:
            return
        state = self.state
        at = torch.tensor(read)[:, None] + torch.arange(most)
        at = at.clamp(max=ids_BT.shape[1] - 1)
        ids = ids_BT.gather(1, at.to(ids_BT.device))
        learnable = learnable_BT.gather(1, at)
        lengths_B = torch.tensor(counts)
        scores, context = forward(
            self.config,
            self.weights,
            ids,
            state.context,
            thetas=state.thetas,
            write_BT=None if bool(learnable.all()) else learnable,
            lengths_B=lengths_B,
        )
        pieces.append((list(range(len(read))), list(read), scores))
        observed = state.observed_B.clone()
        for row, length in enumerate(lengths):
            observed[row] += int(learnable_BT[row, seen[row] : length].sum())
        segment = state.segment
        if segment is not None:
            segment = _remembered(segment, ids, learnable, lengths_B)
        self.state = NativeState(context, observed, state.levels, segment)

    def flush(self, *, learn: bool) -> NativeState:
        """Ends every segment, and reads its last token again into the next one."""
        segment = self.state.segment
        assert segment is not None
        for held in sorted({int(n) for n in segment.length_B} - {0}):
            assert self.state.segment is not None
            segment = self.state.segment
            rows = [row for row, n in enumerate(segment.length_B) if int(n) == held]
            part = take_rows(segment, rows)
            due = torch.zeros(self.state.rows, dtype=torch.bool)
            due[rows] = learn
            ids, learnable = part.ids_BN[:, :held], part.learnable_BN[:, :held].cpu()
            self._end_segment(ids, learnable, rows, part.start, self.state.observed_B, due, True)
            # The last token is read again, under the new weights; it was observed before.
            _, context = forward(
                self.config,
                self.weights,
                ids[:, -1:],
                take_rows(self.state.context, rows),
                thetas=self._thetas(rows),
                write_BT=learnable[:, -1:],
            )
            assert self.state.segment is not None
            lengths = torch.zeros(self.state.rows, dtype=torch.int64)
            lengths[rows] = 1
            last = torch.zeros(self.state.rows, 1, dtype=ids.dtype, device=ids.device)
            last[rows] = ids[:, -1:]
            flags = torch.zeros(self.state.rows, 1, dtype=torch.bool)
            flags[rows] = learnable[:, -1:]
            self.state = replace(
                self.state,
                context=_with_rows(self.state.context, rows, context),
                segment=_remembered(self.state.segment, last, flags, lengths),
            )
        return self.state

    def _thetas(self, rows: list[int]) -> Thetas:
        thetas = self.state.thetas
        return thetas if len(rows) == self.state.rows else take_rows(thetas, rows)

    def _spread(self, gradient: Theta, rows: list[int]) -> Theta:
        """A group's gradients among all rows: zero for the others."""
        if len(rows) == self.state.rows:
            return gradient
        zeros = tuple(tensor.new_zeros(self.state.rows, *tensor.shape[1:]) for tensor in gradient)
        return put_rows(zeros, rows, gradient)


def _detached(context: Context) -> Context:
    return map_tensors(Tensor.detach, context)


def _with_rows(old: Context, rows: Sequence[int], new: Context) -> Context:
    """`old` with some of its rows replaced; `new` itself when it has all of them."""
    if len(rows) == old.rows:
        return new
    old, new = align([old, new])
    return put_rows(old, rows, new)


def _remembered(
    segment: Segment, ids_BT: Tensor, learnable_BT: Tensor, lengths_B: Tensor
) -> Segment:
    """The segment with each row's tokens behind those that it holds."""
    N = segment.ids_BN.shape[1]
    place = torch.arange(N)
    behind = place - segment.length_B[:, None]
    new = (behind >= 0) & (behind < lengths_B[:, None])
    at = behind.clamp(0, ids_BT.shape[1] - 1)
    device = segment.ids_BN.device
    ids = torch.where(new.to(device), ids_BT.gather(1, at.to(device)), segment.ids_BN)
    flags = torch.where(new.to(device), learnable_BT.gather(1, at).to(device), segment.learnable_BN)
    return Segment(segment.start, ids, flags, segment.length_B + lengths_B)


def _assembled(
    pieces: Sequence[tuple[list[int], list[int], Tensor]], ids_BT: Tensor, weights: NativeWeights
) -> Tensor:
    """One (B, T, V) of pieces that start at different places of their rows."""
    B, T = ids_BT.shape
    if len(pieces) == 1 and pieces[0][2].shape[:2] == (B, T):
        return pieces[0][2]
    V = weights.embedding.shape[0]
    scores = torch.zeros(B, T, V, dtype=weights.dtype, device=weights.device)
    for rows, starts, part in pieces:
        for index, (row, start) in enumerate(zip(rows, starts, strict=True)):
            stop = min(start + part.shape[1], T)
            scores[row, start:stop] = part[index, : stop - start]
    return scores
