"""`hope sessions forget`, `migrate` and `cancel-job`: what the server does without being watched.

Knows how a job's progress is shown; joining it again after a broken connection is the client's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from hope.v1 import sessions_pb2 as pb

from hope_client.cli.app import INTERRUPTED, App
from hope_client.cli.sessions import report
from hope_client.cli.terminal import Terminal
from hope_client.cli.view import count, duration

if TYPE_CHECKING:
    from rich.progress import Progress

_PLAIN_EVERY_SECONDS = 5.0


def run_forget(app: App) -> int:
    """Learns everything again without one document."""
    args = app.args
    return _watch(
        app,
        lambda show: app.client.sessions.forget_document(
            args.session, args.document, on_progress=show
        ),
        lambda session: (
            f"Forgot {args.document}; the session is now at version {session.memory_version}."
        ),
    )


def run_migrate(app: App) -> int:
    """Learns everything again under a policy."""
    args = app.args
    return _watch(
        app,
        lambda show: app.client.sessions.migrate(args.session, args.policy, on_progress=show),
        lambda session: (
            f"{session.name} was learnt again under policy {session.policy}; it is now at "
            f"version {session.memory_version}."
        ),
    )


def run_cancel_job(app: App) -> int:
    """Ends a job; the session is as it was before."""
    session = app.run(app.client.sessions.cancel_job(app.args.session))
    return report(
        app,
        session,
        f"{session.name} has no running job; it is at version {session.memory_version}.",
    )


def _watch(
    app: App,
    begin: Callable[[Callable[[pb.Job], None]], Coroutine[Any, Any, pb.Session]],
    line: Callable[[pb.Session], str],
) -> int:
    session = watched(app, app.args.session, begin)
    return INTERRUPTED if session is None else report(app, session, line(session))


def watched(
    app: App,
    name: str,
    begin: Callable[[Callable[[pb.Job], None]], Coroutine[Any, Any, pb.Session]],
) -> pb.Session | None:
    """The session `name` after its job, whose progress is shown; None when Ctrl-C ended the
    watching, and not the job."""
    view = _View(app.terminal)
    try:
        return app.run(begin(view.show))
    except KeyboardInterrupt:
        view.stop()
        app.terminal.note(
            "The job continues on the server; run the same command to follow it, or `hope "
            f"sessions cancel-job {name}` to cancel it."
        )
        return None
    finally:
        view.stop()


class _View:
    """A progress bar, or a line now and then where nobody looks at a terminal."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._bar: Progress | None = None
        self._last = time.monotonic()

    def show(self, job: pb.Job) -> None:
        figures = (
            f"{count(job.folded_records)} of {count(job.total_records)} records, "
            f"{count(job.consolidations)} consolidations, "
            f"{duration(job.duration.ToTimedelta().total_seconds())}"
        )
        if self._terminal.err.isatty():
            self._draw(job, figures)
        elif time.monotonic() - self._last > _PLAIN_EVERY_SECONDS:
            self._last = time.monotonic()
            self._terminal.note(
                f"{count(job.learnt_tokens)} of {count(job.total_tokens)} tokens, {figures}"
            )

    def _draw(self, job: pb.Job, figures: str) -> None:
        from rich import progress

        if self._bar is None:
            self._bar = progress.Progress(
                progress.TextColumn("learning again"),
                progress.BarColumn(),
                progress.TextColumn("{task.description}", markup=False),
                progress.TimeRemainingColumn(),
                console=self._terminal.err_console(),
            )
            self._bar.add_task("")
            self._bar.start()
        self._bar.update(
            self._bar.task_ids[0],
            description=figures,
            completed=job.learnt_tokens,
            total=job.total_tokens,
        )

    def stop(self) -> None:
        """Leaves the bar as it is."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
