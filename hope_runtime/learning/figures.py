"""Figures of learning, in one table for all who write or show them.

FIGURES are those of one consolidation, LEVEL_FIGURES those of a level as it stands. The notes in a
session's log, its summary, metrics and the messages of the API derive from these rows; clients take
their columns from the messages. Names are stored or public: adding a row is an addition everywhere,
renaming one is a migration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import reduce
from typing import Any

# Nats per token.
SURPRISE_NATS = (0.1, 0.3, 1, 2, 3, 5, 7, 10)
PROBE_NATS = (-0.1, -0.03, 0, 0.01, 0.03, 0.1, 0.3, 1)
SECONDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)
# Norms over that of the base weights.
RELATIVE_NORMS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1)
GRADIENT_NORMS = (0.03, 0.1, 0.3, 1, 3, 10, 30)
RANKS = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of Prometheus: a histogram over `buckets`, or a counter without them. Labelled by
    the level unless it is `of_memory`."""

    name: str
    help: str
    buckets: tuple[float, ...] = ()
    of_memory: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a consolidation.

    `name` is the attribute of Consolidation, and the key in its notes; a dot leads into a part.
    `field` is the field of the message hope.v1.Consolidation, likewise.
    """

    name: str
    unit: str
    help: str
    field: str = ""
    metric: Metric | None = None
    # Kept in the log. What is not a fact of the content is not.
    noted: bool = True
    # Servers of before did not note it, though they noted the part that it belongs to.
    added_later: bool = False
    # Measured also when the level learnt nothing.
    always: bool = False

    def of(self, consolidation: object) -> Any:
        """The figure; None when the part that it belongs to was not measured."""
        return _attribute(consolidation, self.name)

    def noted_in(self, notes: Mapping[str, Any]) -> Any:
        """The figure as it was noted; None when it, or its part, was not. Raises KeyError or
        TypeError for notes that no server wrote."""
        first, *path = self.name.split(".")
        if (found := notes.get(first)) is None or not path:
            return found
        *parts, last = path
        for part in parts:
            found = found[part]
        return found.get(last) if self.added_later else found[last]


@dataclass(frozen=True, slots=True)
class LevelFigure:
    """One figure of a level: the key in a session's summary, and the field of the message
    hope.v1.LevelStatus. `path` is the attribute of Level; "" is what an engine measures."""

    name: str
    unit: str
    help: str
    path: str = ""
    # Observed after each consolidation of the level.
    metric: Metric | None = None


FIGURES = (
    Figure("level", "index", "Level that learnt.", "level"),
    Figure("position", "tokens", "Learnable tokens of the session at the boundary.", "position"),
    Figure("spans", "spans", "Spans that were due.", "spans"),
    Figure(
        "tokens",
        "tokens",
        "Tokens of these spans.",
        "tokens",
        Metric("learnt_tokens", "Tokens learnt by a level."),
    ),
    Figure(
        "surprise_before_nats",
        "nats per token",
        "Mean negative log-likelihood of the training spans, before.",
        "surprise_before_nats",
        Metric(
            "surprise_before_nats",
            "Mean negative log-likelihood of the training spans before a consolidation.",
            SURPRISE_NATS,
        ),
    ),
    Figure(
        "surprise_after_nats",
        "nats per token",
        "Mean negative log-likelihood of the training spans, after.",
        "surprise_after_nats",
        Metric(
            "surprise_after_nats",
            "Mean negative log-likelihood of the training spans after a consolidation.",
            SURPRISE_NATS,
        ),
    ),
    Figure(
        "trained_tokens",
        "tokens",
        "Tokens run forward and backward, rehearsal included.",
        "trained_tokens",
        Metric("trained_tokens", "Tokens run forward and backward to train a level."),
    ),
    Figure(
        "seconds",
        "seconds",
        "Wall time.",
        "duration",
        Metric("learn_seconds", "Duration of one consolidation of a level.", SECONDS),
        noted=False,
        always=True,
    ),
    Figure(
        "drift.relative_norm",
        "ratio",
        "Norm of the level relative to the base weights.",
        "drift.relative_norm",
    ),
    Figure(
        "drift.update_ratio",
        "ratio",
        "Norm of the change relative to the base weights.",
        "drift.update_ratio",
        Metric(
            "level_update_ratio",
            "Norm of the change made by a consolidation relative to the base weights.",
            RELATIVE_NORMS,
        ),
    ),
    Figure(
        "drift.effective_rank",
        "rank",
        "Effective rank of the level's weight change, the mean over matrices.",
        "drift.effective_rank",
        Metric("level_effective_rank", "Effective rank of a level's weight change.", RANKS),
    ),
    Figure("drift.steps.count", "steps", "Optimiser steps.", "drift.steps"),
    Figure(
        "drift.steps.gradient_norm",
        "norm",
        "Mean norm of the gradients of these steps.",
        "drift.gradient_norm",
        Metric("gradient_norm", "Mean gradient norm of a consolidation.", GRADIENT_NORMS),
    ),
    Figure(
        "drift.steps.largest_gradient_norm",
        "norm",
        "Largest norm of the gradients of these steps.",
        "drift.largest_gradient_norm",
    ),
    Figure(
        "drift.steps.rehearsed_share",
        "ratio",
        "Share of the examples' tokens that was rehearsal.",
        "drift.rehearsed_share",
        added_later=True,
    ),
    Figure(
        "probed.frozen_nats",
        "nats per token",
        "Loss of the frozen base on its own samples.",
        "probes.frozen_nats",
    ),
    Figure(
        "probed.adapted_nats",
        "nats per token",
        "Loss of the adapted model on these samples.",
        "probes.adapted_nats",
    ),
    Figure(
        "probed.divergence_nats",
        "nats per token",
        "KL(base || adapted) on these samples.",
        "probes.divergence_nats",
        Metric(
            "probe_divergence_nats",
            "KL(base || adapted) on the base model's own samples.",
            PROBE_NATS,
            of_memory=True,
        ),
    ),
    # Follows from the two losses, so it is neither noted nor sent.
    Figure(
        "probed.change_nats",
        "nats per token",
        "Adapted minus frozen loss; above 0 is damage.",
        metric=Metric(
            "probe_loss_change_nats",
            "Loss on the base model's own samples, adapted minus frozen; positive means damage.",
            PROBE_NATS,
            of_memory=True,
        ),
        noted=False,
    ),
)

LEVEL_FIGURES = (
    LevelFigure("period_tokens", "tokens", "Update period.", "config.period_tokens"),
    LevelFigure("rank", "rank", "Rank of its adapter.", "config.rank"),
    LevelFigure("updates", "consolidations", "Consolidations that changed it.", "updates"),
    LevelFigure(
        "relative_norm",
        "ratio",
        "Norm relative to the base weights.",
        metric=Metric(
            "level_relative_norm_ratio",
            "Norm of a level relative to the base weights, at each consolidation.",
            RELATIVE_NORMS,
        ),
    ),
    LevelFigure("learnt_tokens", "tokens", "Tokens that it has learnt.", "learnt_tokens"),
    LevelFigure(
        "surprise_before_nats",
        "nats per token",
        "Mean negative log-likelihood of its last training spans, before.",
        "surprise_before_nats",
    ),
    LevelFigure(
        "surprise_after_nats",
        "nats per token",
        "Mean negative log-likelihood of its last training spans, after.",
        "surprise_after_nats",
    ),
)


def consolidation_notes(consolidation: Any) -> dict[str, Any]:
    """The figures of a Consolidation as its log record notes them, decisions of guards included;
    parts that were not measured are left out."""
    notes: dict[str, Any] = {}
    for figure in FIGURES:
        if figure.noted and (value := figure.of(consolidation)) is not None:
            put(notes, figure.name, value)
    if consolidation.guards:
        notes["guards"] = tuple(asdict(event) for event in consolidation.guards)
    return notes


def level_figures(level: object, relative_norm: float) -> dict[str, Any]:
    """The figures of a Level by name; `relative_norm` is measured by its engine."""
    return {
        figure.name: _attribute(level, figure.path) if figure.path else relative_norm
        for figure in LEVEL_FIGURES
    }


def put(tree: dict[str, Any], path: str, value: Any) -> None:
    """Set the leaf of nested dictionaries that a dotted path names."""
    *parts, last = path.split(".")
    reduce(lambda at, part: at.setdefault(part, {}), parts, tree)[last] = value


def _attribute(thing: Any, path: str) -> Any:
    for name in path.split("."):
        if thing is None:
            return None
        thing = getattr(thing, name)
    return thing
