"""What a level learnt, shrunk until it keeps its policy's guards (guards.py): their arithmetic on
the factors. Knows no learning."""

from __future__ import annotations

from hope_runtime.layers.lora import LowRank, concatenate
from hope_runtime.session.guards import Event, Guard, GuardConfig


def within(
    terms: LowRank, before: LowRank | None, guards: GuardConfig, norm: float
) -> tuple[LowRank, list[Event]]:
    """What a level learnt, shrunk to the guards' limits; `norm` is that of the base.

    A change that is too large is cut by halves, factor by factor on the way from `before` (the
    products' change is no linear function of that way, so it is measured again). A level that is
    too large is scaled towards theta_0, which keeps its directions.
    """
    events = []
    ratio = _change(before, terms, norm)
    if ratio > guards.update_ratio:
        events.append(Event(Guard.CLIPPED, ratio, guards.update_ratio))
        whole, share = terms, 1.0
        while _change(before, terms, norm) > guards.update_ratio:
            share /= 2
            terms = _between(before, whole, share)
    size = terms.norm() / norm
    if size > guards.relative_norm:
        events.append(Event(Guard.DECAYED, size, guards.relative_norm))
        # The stored precision rounds; a little less is within the budget for certain.
        terms = terms.scaled(0.99 * guards.relative_norm / size)
    return terms, events


def _change(before: LowRank | None, after: LowRank, norm: float) -> float:
    gone = None if before is None else before.scaled(-1.0)
    change = concatenate([gone, after])
    return 0.0 if change is None else change.norm() / norm


def _between(before: LowRank | None, after: LowRank, share: float) -> LowRank:
    """The factors that lie `share` of the way from `before` to `after`; from theta_0, B alone."""
    if before is None:
        return after.scaled(share)
    old = before.tensors()
    return LowRank(**{name: old[name].lerp(new, share) for name, new in after.tensors().items()})
