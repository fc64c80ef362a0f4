"""A progress bar on the standard error, so that the standard output stays the result's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars


class Progress:
    """One bar for what is being done now; on no terminal, a line for each new piece of work."""

    def __init__(self, bars: Bars, console: Console) -> None:
        self._bars = bars
        self._console = console
        self._bar = bars.add_task("", total=None)

    def start(self, what: str, steps: int | None) -> None:
        """Begins a piece of work of so many steps; None where nobody knows."""
        self._bars.reset(self._bar, description=what, total=steps)
        if not self._console.is_terminal:
            self._console.print(what)

    def advance(self, steps: int) -> None:
        self._bars.advance(self._bar, steps)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar that vanishes when its work is done."""
    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Bars(*columns, TimeElapsedColumn(), console=console, transient=True) as bars:
        # Bars of a file or a pipe would only be noise at the end.
        bars.live.auto_refresh = console.is_terminal
        yield Progress(bars, console)
