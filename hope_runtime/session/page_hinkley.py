"""Page-Hinkley's test: whether the mean of a stream of figures has changed.

A sequential test of cumulated deviations from the running mean (Page, 1954; Hinkley, 1971), with
the forgetting factor of Gama et al. (2014). Pure: a state and a figure give the next state. Knows
no memory; guards.py says which figures are watched.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Watched:
    """State of the test of one stream since the last alarm.

    `up` and `down` are the cumulated deviations, less and plus the tolerance; `least` is the
    smallest that `up` was, `most` the largest that `down` was.
    """

    count: int = 0
    mean: float = 0.0
    up: float = 0.0
    least: float = math.inf
    down: float = 0.0
    most: float = -math.inf


EMPTY_STREAM = Watched()


@dataclass(frozen=True, slots=True)
class PageHinkley:
    """`tolerance` is a deviation from the mean that counts as none, in the figure's own unit;
    `threshold` what the deviations beyond it may add up to; `warm_up` figures go before the first
    alarm. Each figure multiplies older deviations by `memory`."""

    tolerance: float
    threshold: float
    warm_up: int
    memory: float = 0.9999

    def __post_init__(self) -> None:
        if (
            self.tolerance < 0
            or self.threshold <= 0
            or self.warm_up < 1
            or not 0 < self.memory <= 1
        ):
            raise ValueError(
                "tolerance must be at least 0, threshold above 0, warm_up at least 1 and memory "
                "in (0, 1]"
            )

    def step(self, state: Watched, value: float) -> tuple[Watched, float]:
        """The state after `value`, and the deviation beyond the threshold, 0 for no alarm.

        Above 0 the mean rose, below 0 it fell. An alarm starts a new stream.
        """
        count = state.count + 1
        mean = state.mean + (value - state.mean) / count
        up = self.memory * state.up + (value - mean) - self.tolerance
        down = self.memory * state.down + (value - mean) + self.tolerance
        least, most = min(state.least, up), max(state.most, down)
        if count >= self.warm_up:
            if up - least > self.threshold:
                return EMPTY_STREAM, up - least
            if most - down > self.threshold:
                return EMPTY_STREAM, down - most
        return Watched(count, mean, up, least, down, most), 0.0
