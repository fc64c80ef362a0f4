"""Guards: limits on what one consolidation may do to a memory, and the decisions they lead to.

A guard decides at a boundary, from the log alone: figures that the Learner measures there, and
counters that are part of the memory. It may shrink, skip or reject what was learnt, never a turn.
Every decision is an event with its figures, noted in the consolidation's record. Two events decide
nothing and only tell: that the mean of what surprises a level has changed, or of what it does to
the probes (page_hinkley.py).

Knows limits and decisions; learning/learner.py measures and applies them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum

from hope_runtime.session.page_hinkley import EMPTY_STREAM, PageHinkley, Watched


class Guard(StrEnum):
    """A kind of decision."""

    # Spans that surprised beyond reason were not taught.
    SKIPPED = "spans_skipped"
    # What the consolidation changed was shrunk to the limit.
    CLIPPED = "update_clipped"
    # The level was scaled towards theta_0 until its norm was within the budget.
    DECAYED = "level_decayed"
    # The consolidation was undone: it did too much to the probes.
    REJECTED = "consolidation_rejected"
    # Learning led to what is no finite number, and was undone.
    DIVERGED = "consolidation_diverged"
    # It was one rejection too many: the level learns nothing until it is let go on.
    FROZEN = "level_frozen"
    # The level is frozen and let its stretch pass.
    PASSED_OVER = "level_is_frozen"
    # Told, not decided: what the level is taught surprises it more, or less, than it used to.
    SURPRISE_CHANGED = "surprise_changed"
    # Told, not decided: the level does more to the probes than it used to, or less.
    PROBES_CHANGED = "probes_changed"

    @property
    def decides(self) -> bool:
        """Whether it touches what is learnt."""
        return self not in (Guard.SURPRISE_CHANGED, Guard.PROBES_CHANGED)


@dataclass(frozen=True, slots=True)
class Event:
    """One decision: the figure that led to it, and the limit that it exceeded.

    SKIPPED: the largest surprise of a span, nats per token. CLIPPED and DECAYED: norms over that of
    the base. REJECTED: rise of the probes' loss over the frozen base's, as a share of it. FROZEN:
    rejections in a row, divergence included. PASSED_OVER and DIVERGED: spans that passed, and 0.
    The changes: what deviations from the mean add up to, below 0 for a fall.
    """

    guard: Guard
    value: float
    limit: float


@dataclass(frozen=True, slots=True)
class GuardState:
    """State of a level's guards. `rejections` are those since it last learnt; `events` what
    was decided at its last boundary, for people to read; `surprise` and `probes` the streams in
    which changes are looked for."""

    rejections: int = 0
    frozen: bool = False
    events: tuple[Event, ...] = ()
    surprise: Watched = EMPTY_STREAM
    probes: Watched = EMPTY_STREAM


EMPTY_GUARDS = GuardState()


SURPRISE_CHANGE = PageHinkley(tolerance=0.5, threshold=8.0, warm_up=5)
PROBES_CHANGE = PageHinkley(tolerance=0.005, threshold=0.03, warm_up=5)


@dataclass(frozen=True, slots=True)
class GuardConfig:
    """Limits of the default policy. Each lies well above what honest use was measured to do
    (docs/runbook.md, "Limits"), so that none is met by it, and well below what ruins a memory.

    `surprise_nats`: mean of a span, nats per token. `update_ratio` and `relative_norm`: Frobenius
    norms over that of the base's MLP matrices. `probe_rise`: share of the frozen base's loss.
    `freeze_after`: rejections in a row. `surprise_change` watches the mean surprise of what a
    consolidation taught, nats per token; `probes_change` its rise of the probes' loss.
    """

    surprise_nats: float = 14.0
    update_ratio: float = 0.06
    relative_norm: float = 0.2
    probe_rise: float = 0.15
    freeze_after: int = 3
    surprise_change: PageHinkley = SURPRISE_CHANGE
    probes_change: PageHinkley = PROBES_CHANGE

    def __post_init__(self) -> None:
        limits = (self.surprise_nats, self.update_ratio, self.relative_norm, self.probe_rise)
        if min(limits) <= 0 or self.freeze_after < 1:
            raise ValueError(
                "limits of guards must be above 0, and freeze_after must be at least 1"
            )

    def decided(
        self,
        state: GuardState,
        events: tuple[Event, ...],
        surprise_nats: float | None,
        probe_rise: float | None,
    ) -> GuardState:
        """The state after a boundary at which a level learnt, or would have, with these events.
        The figures are None where nothing was measured."""
        rejected = any(event.guard in (Guard.REJECTED, Guard.DIVERGED) for event in events)
        rejections = state.rejections + 1 if rejected else 0
        if frozen := rejections >= self.freeze_after:
            events = (*events, Event(Guard.FROZEN, rejections, self.freeze_after))
        streams = []
        for guard, test, watched, figure in (
            (Guard.SURPRISE_CHANGED, self.surprise_change, state.surprise, surprise_nats),
            (Guard.PROBES_CHANGED, self.probes_change, state.probes, probe_rise),
        ):
            if figure is not None and math.isfinite(figure):
                watched, deviation = test.step(watched, figure)
                if deviation:
                    events = (*events, Event(guard, deviation, test.threshold))
            streams.append(watched)
        return GuardState(rejections, frozen, events, *streams)


def set_frozen(state: GuardState, frozen: bool) -> GuardState:
    """The state after somebody froze a level or let it go on, which also forgives rejections."""
    if frozen:
        return replace(state, frozen=True)
    return replace(state, frozen=False, rejections=0)
