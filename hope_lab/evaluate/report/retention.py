"""Retention of each lesson after each later one: matrices and their summaries.

Row i of a matrix is what was known after lesson i, column j of what lesson j taught; nothing is
known of lessons that are still to come, so a matrix is a lower triangle. Knows no task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hope_lab.evaluate.report.presenting import name_of
from hope_lab.evaluate.report.report import mean

Matrix = list[list[float | None]]


def matrices(found: Sequence[Mapping[str, Any]], lessons: Sequence[str]) -> list[dict[str, Any]]:
    """A matrix of scores for each arm and policy, with its summary.

    `found` are rows that have `after` and `about`, names of lessons. A cell that nobody could
    answer is None, and then so are the figures that need it.
    """
    cells: dict[tuple[str, str | None], dict[tuple[str, str], float | None]] = {}
    for row in found:
        own = cells.setdefault((row["arm"], row["policy"]), {})
        own[row["after"], row["about"]] = row["score"]
    made = []
    for (arm, policy), own in cells.items():
        matrix: Matrix = [
            [own.get((after, about)) for about in lessons[: index + 1]]
            for index, after in enumerate(lessons)
        ]
        made.append({"arm": arm, "policy": policy, **summary(matrix), "matrix": matrix})
    return made


def summary(matrix: Matrix) -> dict[str, float | None]:
    """`learnt`: the mean of what was known of a lesson right after it. `final`: the mean of what
    is known of all after the last. `forgetting`: by how much the best that was ever known of a
    lesson is above what is left, a mean over all but the last (Chaudhry et al., 2018)."""
    if any(cell is None for row in matrix for cell in row):
        return {"learnt": None, "final": None, "forgetting": None}
    whole = [[cell for cell in row if cell is not None] for row in matrix]
    lost = [
        max(row[about] for row in whole[about:-1]) - whole[-1][about]
        for about in range(len(whole) - 1)
    ]
    return {
        "learnt": mean([row[-1] for row in whole]),
        "final": mean(whole[-1]),
        "forgetting": mean(lost) if lost else None,
    }


def square(matrix: Matrix) -> Matrix:
    """The triangle with blanks where it has no cells, to be drawn."""
    return [[*row, *([None] * (len(matrix) - len(row)))] for row in matrix]


def to_draw(found: Sequence[Mapping[str, Any]]) -> dict[str, Matrix]:
    """Matrices by the names of their arms."""
    return {name_of(item): square(item["matrix"]) for item in found}
