"""How far a memory has moved from the base model."""

from __future__ import annotations

from hope_runtime.memory.cms import Level
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
