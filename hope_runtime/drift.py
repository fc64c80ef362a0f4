"""How far a memory of a frozen backbone has moved from it."""

from __future__ import annotations

from hope_runtime.memory.cms import Level, concatenate
from hope_runtime.model.weights import BaseModel


def base_norm(model: BaseModel) -> float:
    """Frobenius norm of all MLP matrices that levels add to."""
    squares = sum(
        float(layer.gate_up.float().square().sum() + layer.down.float().square().sum())
        for layer in model.weights.layers
    )
    return float(squares**0.5)


def relative_change(before: Level | None, after: Level, norm: float) -> float:
    """Frobenius norm of what was added to a level's term between two states of it, over `norm`,
    that of the base; None is a level that has not learnt."""
    old = None if before is None or before.terms is None else before.terms.scaled(-1.0)
    change = concatenate([old, after.terms])
    return change.norm() / norm if change is not None else 0.0
