"""Output: what was asked for goes to stdout, everything about it to stderr.

Knows streams and rich, which is imported only when something is drawn. Colours
and moving lines appear on a terminal only.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

_WIDTH_OF_FILES = 200  # columns of a table that no terminal bounds


class Terminal:
    """The process's streams."""

    def __init__(self) -> None:
        self.out = sys.stdout
        self.err = sys.stderr
        self.interactive = sys.stdin.isatty() and self.out.isatty()

    def write(self, text: str) -> None:
        """A piece of streamed text, shown at once."""
        self.out.write(printable(text) if self.out.isatty() else text)
        self.out.flush()

    def print(self, line: str = "") -> None:
        """A line that was asked for."""
        self.write(f"{line}\n")

    def note(self, line: str) -> None:
        """A line about what happens."""
        print(printable(line), file=self.err, flush=True)

    def json(self, value: Any) -> None:
        """One JSON document on one line, which is also how JSON lines are made."""
        # What a narrow encoding would replace is escaped instead.
        wide = (self.out.encoding or "").lower().replace("-", "") == "utf8"
        self.out.write(json.dumps(value, ensure_ascii=not wide) + "\n")
        self.out.flush()

    def table(self, headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Aligned columns: the first to the left, the others, which are figures, to the right."""
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for index, header in enumerate(headers):
            table.add_column(header, justify="right" if index else "left", no_wrap=True)
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        self._console(self.out).print(table)

    def busy(self) -> Busy:
        """A moving line for the time nothing else is shown."""
        return Busy(self)

    def err_console(self) -> Console:
        """For drawing on stderr."""
        return self._console(self.err)

    @staticmethod
    def _console(stream: Any) -> Console:
        from rich.console import Console

        width = None if stream.isatty() else _WIDTH_OF_FILES
        return Console(file=stream, width=width, highlight=False, soft_wrap=False)


class Busy:
    """A spinner with the time it has taken; on anything but a terminal a plain line each."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._progress: Progress | None = None
        self._text = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def show(self, text: str) -> None:
        """Says what is waited for."""
        if text == self._text:
            return
        self.stop()
        self._text = text
        if not self._terminal.err.isatty():
            self._terminal.note(text)
            return
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("[dim]{task.description}"),
            TimeElapsedColumn(),
            console=self._terminal.err_console(),
            transient=True,
        )
        self._progress.add_task(text, total=None)
        self._progress.start()

    def stop(self) -> None:
        """Removes the line."""
        self._text = ""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def printable(text: str) -> str:
    """`text` without control characters: what a model writes must not steer a terminal."""
    return "".join(c for c in text if c in "\n\t" or not (ord(c) < 32 or 127 <= ord(c) < 160))
