"""Pictures of results, as PNG files: curves with intervals, and matrices.

matplotlib is optional; `check_plotting` says so before a long run rather than after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hope_runtime.errors import HopeError


class PlotError(HopeError):
    """The picture cannot be drawn or stored."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a picture; `low` and `high` bound a band around it where there are any."""

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def check_plotting(path: Path | None) -> None:
    """Raises PlotError when a picture is wanted and could not be drawn or stored."""
    if path is None:
        return
    _figure((1, 1))
    if not path.absolute().parent.is_dir():
        raise PlotError(
            f"the directory {path.absolute().parent} for the plot does not exist; create it first"
        )


def plot_curves(
    path: Path,
    panels: Mapping[str, Mapping[str, Curve]],
    *,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    one_scale: bool = True,
) -> None:
    """Draws a panel for each title, and in it a line for each name; with `one_scale` all panels
    have the same y axis."""
    figure = _figure((5.5 * max(1, len(panels)), 4))
    all_axes = figure.subplots(1, max(1, len(panels)), squeeze=False, sharey=one_scale)[0]
    for axes, (title, curves) in zip(all_axes, panels.items(), strict=False):
        for name, curve in curves.items():
            (line,) = axes.plot(curve.x, curve.y, marker="o", markersize=3, label=name)
            if curve.low:
                axes.fill_between(
                    curve.x, curve.low, curve.high, color=line.get_color(), alpha=0.12
                )
        axes.set(title=title, xlabel=x_label, ylabel=y_label)
        if log_x:
            axes.set_xscale("log")
        if curves:
            axes.legend(fontsize="small")
    _save(figure, path)


def plot_matrices(
    path: Path,
    matrices: Mapping[str, Sequence[Sequence[float | None]]],
    *,
    x_label: str,
    y_label: str,
    top: float,
) -> None:
    """Draws a matrix for each title; rows downwards, None blank, colours from 0 to `top`."""
    figure = _figure((4.2 * max(1, len(matrices)), 4))
    all_axes = figure.subplots(1, max(1, len(matrices)), squeeze=False)[0]
    for axes, (title, rows) in zip(all_axes, matrices.items(), strict=False):
        values = [[float("nan") if cell is None else cell for cell in row] for row in rows]
        image = axes.imshow(values, vmin=0, vmax=top, cmap="viridis")
        axes.set(title=title, xlabel=x_label, ylabel=y_label)
        figure.colorbar(image, ax=axes, shrink=0.8)
    _save(figure, path)


def _figure(inches: tuple[float, float]) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotError(
            "plots require matplotlib; run `pip install 'hope-server[train]'`, or omit --plot"
        ) from error
    return Figure(figsize=inches, layout="constrained")


def _save(figure: Any, path: Path) -> None:
    try:
        figure.savefig(path, dpi=120, format="png")
    except OSError as error:
        raise PlotError(f"cannot write the plot {path}: {error.strerror}") from error
