"""The log of a run, a JSON object a line, and its picture."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hope_runtime.errors import CorruptModelError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")

LOG, PLOT = "log.jsonl", "loss.png"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the outer loop. Loss in nats a counted place; the norm is before clipping."""

    step: int
    loss: float
    tokens_per_second: float
    learning_rate: float
    gradient_norm: float


def append(directory: Path, step: DataclassInstance) -> None:
    """Add a line: a Step, or another record of plain fields."""
    with (directory / LOG).open("a", encoding="utf-8") as log:
        log.write(json.dumps(asdict(step)) + "\n")


def read(directory: Path) -> list[Step]:
    """All lines. Raises CorruptModelError for a line that is not a Step."""
    return read_as(Step, directory)


def read_as(kind: type[T], directory: Path) -> list[T]:
    """All lines of a log whose records are of `kind`. Raises CorruptModelError for any other."""
    path = directory / LOG
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [kind(**json.loads(line)) for line in lines]
    except (OSError, ValueError, TypeError) as error:
        raise CorruptModelError(f"{path} cannot be read: {error!r}") from error


def cut(directory: Path, step: int) -> None:
    """Drops what came after a step: a run that resumes there will write it again."""
    path = directory / LOG
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if int(json.loads(line)["step"]) <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            # Half a line is what an interrupted run leaves.
            continue
    beside = path.with_suffix(".tmp")
    beside.write_text("".join(kept), encoding="utf-8")
    beside.replace(path)


def plot(directory: Path) -> Path | None:
    """Draws loss over steps beside the log; None where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    steps = read(directory)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([step.step for step in steps], [step.loss for step in steps])
    axes.set(xlabel="step", ylabel="loss, nats", yscale="log")
    figure.savefig(directory / PLOT, dpi=120)
    return directory / PLOT
