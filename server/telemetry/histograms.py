"""Histograms that every parser of OpenMetrics accepts, whatever is observed.

OpenMetrics wants a histogram's sum to be a number that only grows. A value that is no number would
make a sum that is none for ever, and one below zero a sum that shrinks: a strict parser refuses the
whole scrape for it. So what cannot be below zero and is (by rounding) counts as zero, what is not
finite is left out, and a histogram whose buckets begin below zero has neither a sum nor a count:
its bucket `+Inf` is the count.
"""

from __future__ import annotations

import bisect
import math
import threading
from collections.abc import Iterator, Sequence

from prometheus_client import Histogram
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector


class PositiveHistogram(Histogram):
    """A histogram of what is never below zero."""

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        if math.isfinite(amount):
            super().observe(max(0.0, amount), exemplar)


class SignedHistogram(Collector):
    """A histogram of what may be below zero, without labels. Safe for several threads."""

    def __init__(self, name: str, text: str, bounds: Sequence[float]) -> None:
        self._name, self._text = name, text
        self._bounds = [*bounds, math.inf]
        self._counts = [0] * len(self._bounds)
        self._lock = threading.Lock()

    def observe(self, amount: float) -> None:
        if math.isfinite(amount):
            with self._lock:
                self._counts[bisect.bisect_left(self._bounds, amount)] += 1

    def collect(self) -> Iterator[HistogramMetricFamily]:
        with self._lock:
            counts = list(self._counts)
        so_far, buckets = 0, []
        for bound, count in zip(self._bounds, counts, strict=True):
            so_far += count
            buckets.append(("+Inf" if bound == math.inf else repr(float(bound)), float(so_far)))
        yield HistogramMetricFamily(self._name, self._text, buckets=buckets)
