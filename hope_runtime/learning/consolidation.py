"""Report of one consolidation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hope_runtime.learning.drift import LevelDrift
from hope_runtime.learning.figures import consolidation_notes
from hope_runtime.learning.probes import Probed
from hope_runtime.learning.recipe import Superseded
from hope_runtime.session.guards import Event


@dataclass(frozen=True, slots=True)
class Consolidation:
    """Report of one level's training at one boundary.

    Surprises are mean nats per token of the spans it taught, before and after; `trained_tokens`
    counts every token run forward and backward, rehearsal included; `seconds` is wall time.
    `drift` and `probed` are None when the level learnt nothing, and in native models.
    `superseded` are statements that took the place of earlier ones, `statements` counts those that
    were practised; `phases` is wall time by phase.
    """

    level: int
    position: int
    spans: int
    tokens: int
    surprise_before_nats: float
    surprise_after_nats: float
    trained_tokens: int
    seconds: float
    drift: LevelDrift | None = None
    probed: Probed | None = None
    guards: tuple[Event, ...] = ()
    superseded: tuple[Superseded, ...] = ()
    statements: int = 0
    phases: Mapping[str, float] = field(default_factory=dict)

    def notes(self) -> dict[str, Any]:
        """The figures for the log; without wall times, which are not facts of the content."""
        return consolidation_notes(self)
