"""`hope ingest`: a file or a pipe into a session, with progress, from where it stopped last time.

Knows how progress is shown; reading and resuming after a broken connection are
the client's (`hope_client.ingest`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from hope.v1 import inference_pb2 as pb

from hope_client.cli.app import FAILED, INTERRUPTED, App
from hope_client.cli.terminal import Terminal
from hope_client.cli.view import count, duration, size, to_plain
from hope_client.events import IngestEvent, Resuming
from hope_client.sources import DocumentSource

if TYPE_CHECKING:
    from rich.progress import Progress

_PLAIN_EVERY_SECONDS = 5.0
_PIPE_READ_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Job:
    """One document to read: always the whole of it, from its first byte."""

    session: str
    file: str
    document: str
    conversation: str = ""
    learn: bool = True
    keep_open: bool = False
    json: bool = False


def ingest(app: App) -> int:
    """Reads a file, or standard input, into a session."""
    args = app.args
    if args.file == "-" and not args.document:
        app.terminal.note("hope: a document from standard input needs a name; give --document NAME")
        return 2
    job = Job(
        session=args.session,
        file=args.file,
        document=args.document or Path(args.file).name,
        conversation=args.conversation,
        learn=not args.no_learn,
        keep_open=args.keep_open,
        json=args.json,
    )
    return run_job(app, job)


def run_job(app: App, job: Job) -> int:
    """Runs `job`; Ctrl-C stops it where the server's memory ends."""
    try:
        return app.run(_run(app, job))
    except KeyboardInterrupt:
        app.terminal.note("Stopped. The committed part is kept; run the same command to resume.")
        return INTERRUPTED


async def _run(app: App, job: Job) -> int:
    source, total = _open(job.file)
    document = await app.client.sessions.document(job.session, job.document)
    committed = document.committed_bytes if document else 0
    if document and document.ended and total in (None, committed):
        if job.json:
            app.terminal.json({"event": "complete", **to_plain(document)})
        else:
            app.terminal.print(
                f"{job.document} was already read completely ({count(committed)} bytes)."
            )
        return 0
    if document and (document.ended or (total is not None and total < committed)):
        app.terminal.note(
            f"hope: the session already has a different document {job.document} of "
            f"{count(committed)} bytes; choose another name with --document NAME"
        )
        return FAILED
    if job.json:
        app.terminal.json(
            {
                "event": "start",
                "document": job.document,
                "committed_bytes": committed,
                "total_bytes": total,
            }
        )
    elif committed:
        of_total = f" of {count(total)}" if total is not None else ""
        app.terminal.note(f"Resuming {job.document} at byte {count(committed)}{of_total}.")
    events = app.client.ingest_events(
        job.session,
        source,
        document=job.document,
        conversation=job.conversation,
        learn=None if job.learn else False,
        end_of_document=not job.keep_open,
        resume_at_bytes=committed,
    )
    began = time.monotonic()
    async with contextlib.aclosing(events):
        with _view_of(app.terminal, job, committed, total) as view:
            async for event in events:
                view.show(event)
                if isinstance(event, pb.IngestResult) and not job.json:
                    view.stop()
                    app.terminal.print(_summary(job, event, time.monotonic() - began))
    return 0


def _open(file: str) -> tuple[DocumentSource, int | None]:
    """The source and, where it can be known, its size in bytes."""
    if file != "-":
        path = Path(file)
        return path, path.stat().st_size if path.is_file() or not path.exists() else None
    if sys.stdin.seekable():
        stdin = sys.stdin.buffer
        return stdin, os.fstat(stdin.fileno()).st_size - stdin.tell()
    return _stdin_pieces(), None


async def _stdin_pieces() -> AsyncIterator[bytes]:
    # Not in a thread: one that waits for a silent pipe would hold up Ctrl-C.
    descriptor = sys.stdin.fileno()
    while True:
        await _readable(descriptor)
        piece = os.read(descriptor, _PIPE_READ_BYTES)
        if not piece:
            return
        yield piece


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    # Watched only while waited for: a full pipe would keep the loop spinning.
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)


def _summary(job: Job, result: pb.IngestResult, elapsed_seconds: float) -> str:
    parts = [
        f"{size(result.committed_bytes)}",
        f"{count(result.tokens)} tokens in {duration(elapsed_seconds)}",
        f"memory version {result.memory_version}",
    ]
    if result.HasField("surprise_nats"):
        parts.insert(2, f"surprise {result.surprise_nats:.2f}")
    return f"Read {job.document}{'' if result.ended else ' (left open)'}: {', '.join(parts)}."


class _View:
    """Shows events; this one shows them as JSON lines, the others override what they draw."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal

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
        self.terminal.json(_as_json(event))

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


class _Plain(_View):
    """A line now and then, for logs."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__(terminal)
        self._began = self._last = time.monotonic()

    def show(self, event: IngestEvent) -> None:
        match event:
            case Resuming():
                self.terminal.note(_resuming(event))
            case pb.StatusUpdate():
                self.terminal.note(_waiting(event))
            case pb.IngestProgress() if time.monotonic() - self._last > _PLAIN_EVERY_SECONDS:
                self._last = time.monotonic()
                rate = event.tokens / (self._last - self._began)
                self.terminal.note(
                    f"{count(event.committed_bytes)} bytes, {count(event.tokens)} tokens, "
                    f"{rate:.0f} tokens/s, surprise {_surprise(event)}"
                )


class _Bar(_View):
    """A progress bar, for people."""

    def __init__(self, terminal: Terminal, document: str, committed: int, total: int | None):
        from rich import progress

        super().__init__(terminal)
        self._progress: Progress = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TextColumn("{task.fields[figures]}", markup=False),
            progress.TimeRemainingColumn(),
            console=terminal.err_console(),
        )
        self._task = self._progress.add_task(document, completed=committed, total=total, figures="")
        self._began = time.monotonic()
        self._progress.start()

    def show(self, event: IngestEvent) -> None:
        match event:
            case Resuming():
                self._progress.update(self._task, figures=_resuming(event))
            case pb.StatusUpdate():
                self._progress.update(self._task, figures=_waiting(event))
            case _:
                rate = event.tokens / max(time.monotonic() - self._began, 1e-3)
                self._progress.update(
                    self._task,
                    completed=event.committed_bytes,
                    figures=f"{count(event.tokens)} tokens, {rate:.0f}/s, "
                    f"surprise {_surprise(event)}",
                )

    def stop(self) -> None:
        self._progress.stop()


def _view_of(terminal: Terminal, job: Job, committed: int, total: int | None) -> _View:
    if job.json:
        return _View(terminal)
    if terminal.err.isatty():
        return _Bar(terminal, job.document, committed, total)
    return _Plain(terminal)


def _resuming(event: Resuming) -> str:
    return f"connection lost, reconnecting in {event.delay_seconds:.1f} s"


def _waiting(event: pb.StatusUpdate) -> str:
    return "learning ..." if event.status == pb.STATUS_LEARNING else "waiting for other turns ..."


def _surprise(event: pb.IngestProgress | pb.IngestResult) -> str:
    return f"{event.surprise_nats:.2f}" if event.HasField("surprise_nats") else "-"
