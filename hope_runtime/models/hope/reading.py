"""One call of stream.py: tokens are read piece by piece, and at the end of a segment levels learn.

A piece ends where the segment of some rows does; rows whose segments are equally long, and have as
many tokens to go, run together.

Shape suffixes: B rows, T tokens, N tokens of a segment, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hope_runtime.layers.cms import (
    LevelState,
    Theta,
    UpdateRule,
    gather,
    restart,
    update,
)
from hope_runtime.models.hope.config import HopeConfig
from hope_runtime.models.hope.gradients import segment_gradients
from hope_runtime.models.hope.model import Context, Thetas, forward
from hope_runtime.models.hope.rows import align, put_rows, take_rows
from hope_runtime.models.hope.state import HopeState, Segment
from hope_runtime.models.hope.weights import HopeWeights


class Reader:
    """One call of `observe`: the state as it grows, replaced and never changed in place."""

    def __init__(
        self, config: HopeConfig, weights: HopeWeights, state: HopeState, rule: UpdateRule
    ) -> None:
        self.config, self.weights, self.rule = config, weights, rule
        self.state = state
        self.initial = [weights.theta(config, level) for level in range(len(config.levels))]

    def read(
        self, ids_BT: Tensor, learnable_BT: Tensor, lengths_B: Tensor | None
    ) -> tuple[Tensor, HopeState]:
        """Read tokens, learning at the end of each segment: logits (B, T, V), and the new state."""
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
        """Index of the token whose arrival ends each row's segment; None if it is not here yet."""
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
        """End the segment of rows that agree on its tokens: `held` old and `fresh` new ones.

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
        """Read all but the last token with gradients, learns, and moves the segment's start."""
        scores, levels, end = None, list(self.state.levels), start
        if ids_RN.shape[1] > 1:
            thetas, initial = self._thetas(rows), self.initial
            scores, gradients, end = segment_gradients(
                self.config, self.weights, thetas, initial, ids_RN, learnable_RN, start
            )
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
        self.state = HopeState(
            _with_rows(old.context, rows, end), observed_B, tuple(levels), segment
        )
        return scores

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
        """Read what is left of each row without gradients, and remembers it for its segment."""
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
            segment = segment.with_tokens(ids, learnable, lengths_B)
        self.state = HopeState(context, observed, state.levels, segment)

    def flush(self, *, learn: bool) -> HopeState:
        """End every segment, and reads its last token again into the next one."""
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
                segment=self.state.segment.with_tokens(last, flags, lengths),
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


def _with_rows(old: Context, rows: Sequence[int], new: Context) -> Context:
    """`old` with some of its rows replaced; `new` itself when it has all of them."""
    if len(rows) == old.rows:
        return new
    old, new = align([old, new])
    return put_rows(old, rows, new)


def _assembled(
    pieces: Sequence[tuple[list[int], list[int], Tensor]], ids_BT: Tensor, weights: HopeWeights
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
