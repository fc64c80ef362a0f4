"""Settings of the outer loop. Knows no model and no task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """One run of the outer loop.

    Raises ValueError for values that make no sense.
    """

    steps: int
    # Rows of a step, over all processes together.
    batch_rows: int = 64
    # A name of train/optimizer.py; hyperparameters are those of its update rule. beta1 and beta2
    # below are AdamW's, or of the Adam that takes what is no matrix beside a rule for matrices.
    optimizer: str = "adamw"
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    learning_rate: float = 3e-3
    warmup_steps: int = 50
    # The cosine ends at this fraction of learning_rate.
    final_fraction: float = 0.1
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.95
    # Gradients are scaled down to this norm over all weights; 0 leaves them.
    clip_norm: float = 1.0
    # Of the weights and of the data: a batch is a function of the seed and the step.
    seed: int = 0
    # Tokens through which gradients go back in time; 0: through the whole text.
    truncate_tokens: int = 0
    # Activations are kept at every so many tokens, and computed again between; 0: all are kept.
    recompute_tokens: int = 0
    # Matrix products in bfloat16; weights, memories and the optimiser stay in float32.
    autocast: bool = False
    device: str = "cpu"
    log_every: int = 10
    # 0: only at the end.
    save_every: int = 0
    test_rows: int = 256

    def __post_init__(self) -> None:
        for name, kind in _kinds().items():
            value = getattr(self, name)
            right = isinstance(value, (int, float) if kind == "float" else _TYPES[kind])
            if not right or (isinstance(value, bool) and kind != "bool"):
                raise ValueError(f"{name} must be of type {kind}, not {value!r}")
        for name in ("steps", "batch_rows", "log_every", "test_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        for name in ("warmup_steps", "save_every", "truncate_tokens", "recompute_tokens", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0")
        for name in ("learning_rate", "weight_decay", "clip_norm", "final_fraction"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"{name} must be a finite number of at least 0")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise ValueError("beta1 and beta2 must be in [0, 1)")
        if self.truncate_tokens and self.recompute_tokens > self.truncate_tokens:
            raise ValueError("recompute_tokens must be at most truncate_tokens")

    def to_fields(self) -> dict[str, Any]:
        """Plain values, for JSON; TrainConfig(**fields) is the inverse."""
        return asdict(self)


_TYPES: dict[str, type] = {"int": int, "str": str, "bool": bool, "Mapping[str, Any]": Mapping}


def _kinds() -> dict[str, str]:
    return {field.name: str(field.type) for field in fields(TrainConfig)}


def learning_rate_at(config: TrainConfig, step: int) -> float:
    """The rate of step 0, 1, ...: linear warm-up, then a cosine down to the final fraction."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    span = max(config.steps - 1 - config.warmup_steps, 1)
    part = min((step - config.warmup_steps) / span, 1.0)
    low = config.final_fraction
    return config.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * part)))
