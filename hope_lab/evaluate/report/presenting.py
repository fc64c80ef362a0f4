"""Prints the result of a task whose courses were taken: one JSON document, or tables.

The keys are documented in docs/evaluation.md. What the rows say is the tasks' business.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from hope_lab.evaluate.report.plotting import Curve
from hope_lab.evaluate.report.report import print_json, print_tables, table
from hope_lab.evaluate.running import Bench
from hope_lab.evaluate.scoring import Trial

Row = Mapping[str, Any]


def settings(task: str, args: argparse.Namespace, bench: Bench) -> dict[str, Any]:
    """Fields that every report begins with."""
    return {
        "task": task,
        "model": args.model,
        "dtype": str(bench.model.dtype).removeprefix("torch."),
        "seeds": list(args.seeds),
        "policies": {policy.name: policy.digest() for policy in bench.policies},
        "replay": list(args.replay),
    }


def print_result(
    document: Mapping[str, Any],
    args: argparse.Namespace,
    parts: Sequence[str],
    trials: Sequence[Trial] = (),
) -> None:
    """One JSON document, or `parts` of it, which are lists of rows, as tables; with --show the
    questions and replies too, where there are any."""
    whole = dict(document)
    if args.show and trials:
        whole["shown"] = [_shown(trial) for trial in trials]
        parts = [*parts, "shown"]
    if args.json:
        print_json(whole, sys.stdout)
        return
    title = f"{document['task']}: {document['model']}, seeds {' '.join(map(str, args.seeds))}"
    print_tables([_table(f"{title}: {part}", whole[part]) for part in parts], sys.stdout)


def name_of(row: Row) -> str:
    """An arm as people call it."""
    return row["arm"] if row["policy"] is None else f"{row['arm']}, {row['policy']}"


def curves_over(found: Sequence[Row], x: str, panel: str) -> dict[str, dict[str, Curve]]:
    """Scores over the label `x`, a panel for each value of `panel` and a line for each arm."""
    panels: dict[str, dict[str, list[Row]]] = {}
    for row in found:
        if row["score"] is not None:
            lines = panels.setdefault(str(row[panel]), {})
            lines.setdefault(name_of(row), []).append(row)
    return {
        title: {name: _curve(line, x) for name, line in lines.items()}
        for title, lines in panels.items()
    }


def _curve(line: Sequence[Row], x: str) -> Curve:
    bounds = [row["interval"] or (row["score"], row["score"]) for row in line]
    return Curve(
        [row[x] for row in line],
        [row["score"] for row in line],
        [low for low, _ in bounds],
        [high for _, high in bounds],
    )


def _shown(trial: Trial) -> dict[str, Any]:
    return {
        **trial.labels,
        "after": trial.after,
        "arm": trial.arm,
        "policy": trial.policy,
        "text": trial.asked.text,
        "values": list(trial.asked.values),
        "reply": trial.reply,
    }


def _table(title: str, found: Sequence[Row]) -> Any:
    columns = list(found[0]) if found else []
    return table(title, columns, [[_cell(row[name]) for name in columns] for row in found])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"
    if isinstance(value, list | tuple):
        return " to ".join(map(_cell, value)) if len(value) == 2 else ", ".join(map(_cell, value))
    return f"{value:,}" if isinstance(value, int) else str(value).replace("\n", " / ")
