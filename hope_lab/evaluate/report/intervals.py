"""Intervals of figures that are no proportions: means, and scores of whole sets of sentences.

Proportions have Wilson's interval, in report.py. All are of 95 %.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import TypeVar

from hope_lab.evaluate.report.report import mean

_Item = TypeVar("_Item")
# Two-sided 95 % quantile of the normal distribution.
_Z95 = 1.959963984540054
RESAMPLES = 1000


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Of a mean of independent values, by their standard error; None for fewer than two."""
    if len(values) < 2:
        return None
    centre = mean(values)
    variance = sum((value - centre) ** 2 for value in values) / (len(values) - 1)
    half = _Z95 * math.sqrt(variance / len(values))
    return centre - half, centre + half


def bootstrap(
    items: Sequence[_Item], statistic: Callable[[Sequence[_Item]], float]
) -> tuple[float, float] | None:
    """Percentile bootstrap of a statistic over independent items; None for fewer than two.

    The resamples are the same at every call.
    """
    if len(items) < 2:
        return None
    rng = random.Random("bootstrap")
    found = sorted(statistic(rng.choices(items, k=len(items))) for _ in range(RESAMPLES))
    return found[round(0.025 * (RESAMPLES - 1))], found[round(0.975 * (RESAMPLES - 1))]
