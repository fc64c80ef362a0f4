"""The progress of an ingest: JSON lines, a line now and then, or a bar.

Knows the events of an ingest and how they look; what is read is in `ingest.py`.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from hope.v1 import inference_pb2 as pb

from hope_client.cli.app import App
from hope_client.cli.view import count, duration, to_plain
from hope_client.errors import UnavailableError
from hope_client.events import IngestEvent, Resuming

if TYPE_CHECKING:
    from rich.progress import Progress

_PLAIN_EVERY_SECONDS = 5.0


class View:
    """Shows events; this one shows them as JSON lines, the others override what they draw."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.terminal = app.terminal

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def show(self, event: IngestEvent) -> None:
        """Shows one event."""
        self.terminal.json(_as_json(event))

    def resuming(self, event: Resuming) -> str:
        """Description of what is waited for."""
        if isinstance(event.error, UnavailableError) and not event.error.reason:
            return f"connection lost, resuming in {event.delay_seconds:.1f} s"
        return f"{self.app.explain(event.error)} Trying again in {event.delay_seconds:.1f} s."

    def stop(self) -> None:
        pass


def _as_json(event: IngestEvent) -> dict[str, Any]:
    match event:
        case Resuming():
            return {
                "event": "resuming",
                "error": str(event.error),
                "delay_seconds": event.delay_seconds,
            }
        case pb.StatusUpdate():
            return {"event": "status", **to_plain(event)}
        case pb.IngestProgress():
            return {"event": "progress", **to_plain(event)}
        case pb.IngestResult():
            return {"event": "result", **to_plain(event)}


class _Plain(View):
    """A line now and then, for logs."""

    def __init__(self, app: App, label: str, committed: int, total: int | None) -> None:
        super().__init__(app)
        self._label, self._committed, self._total = label, committed, total
        self._began = self._last = time.monotonic()
        self._told_to_wait = False

    def show(self, event: IngestEvent) -> None:
        for line in _let_go(event):
            self.terminal.note(line)
        match event:
            case Resuming():
                self.terminal.note(self.resuming(event))
            # Often it lasts no longer than a moment, so not every one gets a line.
            case pb.StatusUpdate() if not self._told_to_wait:
                self._told_to_wait = True
                self.terminal.note(f"{self._label}: {_waiting(event)}")
            case pb.IngestProgress() if time.monotonic() - self._last > _PLAIN_EVERY_SECONDS:
                self._last = time.monotonic()
                self._told_to_wait = False
                seconds = self._last - self._began
                read = event.committed_bytes - self._committed
                left = ""
                if self._total is not None and read:
                    rest = seconds * (self._total - event.committed_bytes) / read
                    left = f", {duration(rest)} left"
                self.terminal.note(
                    f"{count(event.committed_bytes)} bytes, {count(event.tokens)} tokens, "
                    f"{event.tokens / seconds:.0f} tokens/s, surprise {_surprise(event)}, "
                    f"{practised(event.learning)}{left}"
                )


class _Bar(View):
    """A progress bar, for people."""

    def __init__(self, app: App, label: str, committed: int, total: int | None) -> None:
        from rich import progress

        super().__init__(app)
        self._progress: Progress = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TextColumn("{task.fields[figures]}", markup=False),
            progress.TimeRemainingColumn(),
            console=app.terminal.err_console(),
        )
        self._task = self._progress.add_task(label, completed=committed, total=total, figures="")
        self._began = time.monotonic()
        self._progress.start()

    def show(self, event: IngestEvent) -> None:
        for line in _let_go(event):
            self._progress.console.print(line, markup=False)
        match event:
            case Resuming():
                self._progress.update(self._task, figures=self.resuming(event))
            case pb.StatusUpdate():
                self._progress.update(self._task, figures=_waiting(event))
            case _:
                rate = event.tokens / max(time.monotonic() - self._began, 1e-3)
                self._progress.update(
                    self._task,
                    completed=event.committed_bytes,
                    figures=f"{count(event.tokens)} tokens, {rate:.0f}/s, "
                    f"surprise {_surprise(event)}, {practised(event.learning)}",
                )

    def stop(self) -> None:
        self._progress.stop()


def view_of(app: App, label: str, committed: int, total: int | None, *, json: bool) -> View:
    """The way to show an ingest that suits the streams."""
    if json:
        return View(app)
    return (_Bar if app.terminal.err.isatty() else _Plain)(app, label, committed, total)


def practised(learning: pb.IngestLearning) -> str:
    """Description of what learning did so far, in a few words."""
    return (
        f"{count(learning.practised_statements)} statements practised in "
        f"{count(learning.trained_tokens)} passes"
    )


def _let_go(event: IngestEvent) -> list[str]:
    """Lines about what the session let go of for this document."""
    lines = []
    if isinstance(event, pb.IngestProgress) and event.dropped_document:
        lines.append(
            f"The session keeps the places of the last 64 documents; that of "
            f"{event.dropped_document} is gone. It stays learnt, and reading it again would "
            "teach it twice."
        )
    if isinstance(event, pb.IngestProgress) and event.dropped_conversation:
        lines.append(
            f"The session keeps the windows of the last 8 conversations; that of "
            f"{event.dropped_conversation} is gone. What it taught stays."
        )
    return lines


def _waiting(event: pb.StatusUpdate) -> str:
    return "learning ..." if event.status == pb.STATUS_LEARNING else "waiting for other turns ..."


def _surprise(event: pb.IngestProgress | pb.IngestResult) -> str:
    return f"{event.surprise_nats:.2f}" if event.HasField("surprise_nats") else "-"
