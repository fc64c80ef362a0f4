"""Updates shrunk until they keep the policy's guards (session/guards.py): the arithmetic on
the factors. Knows no learning."""

from __future__ import annotations

from hope_runtime.layers.lora import LoraAdapter, concatenate
from hope_runtime.session.guards import Event, Guard, GuardConfig


def within(
    adapter: LoraAdapter, before: LoraAdapter | None, guards: GuardConfig, norm: float
) -> tuple[LoraAdapter, list[Event]]:
    """The adapter, shrunk to the guards' limits; `norm` is that of the base.

    A change that is too large is cut by halves, factor by factor on the way from `before` (the
    products' change is no linear function of that way, so it is measured again). A level that is
    too large is scaled towards theta_0, which keeps its directions.
    """
    events = []
    ratio = _change(before, adapter, norm)
    if ratio > guards.update_ratio:
        events.append(Event(Guard.CLIPPED, ratio, guards.update_ratio))
        whole, share = adapter, 1.0
        while _change(before, adapter, norm) > guards.update_ratio:
            share /= 2
            adapter = _between(before, whole, share)
    size = adapter.norm() / norm
    if size > guards.relative_norm:
        events.append(Event(Guard.DECAYED, size, guards.relative_norm))
        # The stored precision rounds; a little less is within the budget for certain.
        adapter = adapter.scaled(0.99 * guards.relative_norm / size)
    return adapter, events


def _change(before: LoraAdapter | None, after: LoraAdapter, norm: float) -> float:
    gone = None if before is None else before.scaled(-1.0)
    change = concatenate([gone, after])
    return 0.0 if change is None else change.norm() / norm


def _between(before: LoraAdapter | None, after: LoraAdapter, share: float) -> LoraAdapter:
    """The factors that lie `share` of the way from `before` to `after`; from theta_0, B alone."""
    if before is None:
        return after.scaled(share)
    old = before.tensors()
    return LoraAdapter(
        **{name: old[name].lerp(new, share) for name, new in after.tensors().items()}
    )
