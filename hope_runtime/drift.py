"""How far a memory has moved from the base model."""

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


def relative_norm(level: Level, norm: float) -> float:
    """Frobenius norm of a level's own term over `norm`, that of the base; 0 until it learns."""
    return level.terms.norm() / norm if level.terms is not None else 0.0


def relative_change(before: Level, after: Level, norm: float) -> float:
    """Frobenius norm of what was added to a level's term between two states of it, over `norm`."""
    taken = None if before.terms is None else before.terms.scaled(-1.0)
    change = concatenate([taken, after.terms])
    return change.norm() / norm if change is not None else 0.0
