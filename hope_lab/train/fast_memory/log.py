"""The log of a run of `hope train fast-memory`, a JSON object a line, and its picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hope_lab.train.log import LOG, append, cut, read_as

__all__ = ["LOG", "MemoryStep", "append", "cut", "plot", "read"]

PLOT = "recall.png"


@dataclass(frozen=True, slots=True)
class MemoryStep:
    """A line of the log. Nats a token of the answers; shares of values, of whole answers and of
    completions' values that the scores would choose; `facts` are those of the pool of texts."""

    step: int
    minutes: float
    learning_rate: float
    answer_nats: float
    kl: float
    values: float
    answers: float
    completions: float
    facts: int
    held_out: dict[str, float] | None = None


def read(directory: Path) -> list[MemoryStep]:
    """All lines. Raises CorruptModelError for a line that is not a MemoryStep."""
    return read_as(MemoryStep, directory)


def plot(directory: Path) -> Path | None:
    """Draws recall over steps beside the log; None where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    steps = read(directory)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([one.step for one in steps], [one.values for one in steps], label="training")
    tested = [(one.step, one.held_out) for one in steps if one.held_out is not None]
    for facts in (8, 24):
        shares = [held_out[f"values_{facts}"] for _, held_out in tested]
        axes.plot([step for step, _ in tested], shares, label=f"held out, {facts} facts")
    axes.set(xlabel="step", ylabel="share of right values", ylim=(0, 1))
    axes.legend()
    figure.savefig(directory / PLOT, dpi=120)
    return directory / PLOT
