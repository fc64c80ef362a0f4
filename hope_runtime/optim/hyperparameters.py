"""Checks of hyper-parameters: each returns what it was given, or raises HyperparameterError."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hope_runtime.errors import HyperparameterError


def fraction(name: str, value: float) -> float:
    """A number in [0, 1)."""
    if not _is_finite(value) or not 0 <= value < 1:
        raise HyperparameterError(f"{name} must be in [0, 1), not {value!r}")
    return value


def non_negative(name: str, value: float) -> float:
    """A finite number of at least 0."""
    if not _is_finite(value) or value < 0:
        raise HyperparameterError(f"{name} must be a finite number of at least 0, not {value!r}")
    return value


def positive(name: str, value: float) -> float:
    """A finite number above 0."""
    if not _is_finite(value) or value <= 0:
        raise HyperparameterError(f"{name} must be a finite number above 0, not {value!r}")
    return value


def at_least(name: str, value: int, low: int) -> int:
    """An integer of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise HyperparameterError(f"{name} must be an integer of at least {low}, not {value!r}")
    return value


def one_of(name: str, value: str, choices: Sequence[str]) -> str:
    """One of `choices`."""
    if value not in choices:
        raise HyperparameterError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
    return value


def _is_finite(value: object) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value)  # type: ignore[arg-type]
