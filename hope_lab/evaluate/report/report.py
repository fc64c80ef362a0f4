"""Figures of a task for people and for programs: intervals, pooling over seeds, tables, JSON.

Knows proportions and how to print them, and no task in particular.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

# Two-sided 95 % quantile of the normal distribution.
_Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Share:
    """`hits` of `count` trials."""

    hits: int
    count: int

    @staticmethod
    def of(verdicts: Iterable[bool]) -> Share:
        found = list(verdicts)
        return Share(sum(found), len(found))

    def __add__(self, other: Share) -> Share:
        return Share(self.hits + other.hits, self.count + other.count)

    @property
    def rate(self) -> float | None:
        """From 0 to 1; None when nothing was tried."""
        return self.hits / self.count if self.count else None

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.hits, self.count)


def wilson(hits: int, count: int) -> tuple[float, float]:
    """95 % interval of a proportion after Wilson (1927), within [0, 1]; (0, 1) for no trials.

    It treats trials as independent, also where several seeds were pooled.
    """
    if not 0 <= hits <= count:
        raise ValueError(f"{hits} of {count} is not a valid proportion")
    if count == 0:
        return 0.0, 1.0
    rate, z2 = hits / count, _Z95**2
    middle = rate + z2 / (2 * count)
    half = _Z95 * math.sqrt(rate * (1 - rate) / count + z2 / (4 * count * count))
    scale = 1 + z2 / count
    # At the ends the formula is exact but for rounding.
    low = 0.0 if hits == 0 else max(0.0, (middle - half) / scale)
    high = 1.0 if hits == count else min(1.0, (middle + half) / scale)
    return low, high


def pooled(shares: Sequence[Share | None]) -> Share | None:
    """All trials as one; None as soon as one is missing, because a part would mislead."""
    total = Share(0, 0)
    for share in shares:
        if share is None:
            return None
        total = total + share
    return total


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def per_cent(rate: float | None) -> str:
    """A rate of 0 to 1 as people read it; a dash where there is none."""
    return "-" if rate is None else f"{100 * rate:.1f} %"


def print_tables(tables: Sequence[Table], stream: TextIO) -> None:
    """Prints tables with an empty line between them."""
    console = Console(file=stream, highlight=False)
    for index, table in enumerate(tables):
        if index:
            console.print()
        console.print(table)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A plain table, its first column left, the others right."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        made.add_column(column, justify="right" if index else "left")
    for row in rows:
        made.add_row(*row)
    return made


def print_json(document: Any, stream: TextIO) -> None:
    """One JSON document; what is not finite becomes null, since JSON has no word for it."""
    text = json.dumps(_finite(document), ensure_ascii=False, indent=1, allow_nan=False)
    stream.write(text + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
