"""Threads that compute side by side, each alone on one core.

A consolidation's bits must not depend on how many cores there are or what else they do (rule 2).
So learning never splits one operation over threads: it cuts its work into pieces at places that
the content decides, runs each piece on one thread, and puts the results together in their order.
That is faster, too: threads that share one small operation mostly wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Workers:
    """Up to `count` pieces at a time, by default as many as torch would use threads.

    `width` may be lowered while others need the cores; it changes when things happen, not what.
    """

    def __init__(self, count: int | None = None) -> None:
        self.count = count or torch.get_num_threads()
        self.width = self.count
        self._pool = ThreadPoolExecutor(
            self.count,
            thread_name_prefix="hope-learning",
            initializer=partial(torch.set_num_threads, 1),
        )

    def map(self, function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
        """`function` of each item, in the items' order; raises what the first that failed did."""
        found: list[_Result] = []
        while len(found) < len(items):
            found += self._pool.map(function, items[len(found) : len(found) + self.width])
        return found
