"""`hope ingest`: files, folders or a pipe into a session, each from where it stopped last time.

Knows what to do with a document that the session knows already; which files there are is in
`documents.py`, how progress is shown in `progress.py`, and reading and resuming after a broken
connection are the client's (`hope_client.ingest`).
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from hope.v1 import inference_pb2 as pb
from hope.v1 import sessions_pb2

from hope_client.cli.app import FAILED, INTERRUPTED, App
from hope_client.cli.documents import Item, Text, choose, stdin_pieces
from hope_client.cli.memory import show_most_surprising
from hope_client.cli.progress import practised, view_of
from hope_client.cli.reading import cancel_reading, show_reading
from hope_client.cli.streams import NotTextError
from hope_client.cli.view import count, duration, size, to_plain
from hope_client.errors import FailedPreconditionError
from hope_client.ingest import DIFFERS

PLACES = 64
"""Documents whose places a session keeps."""


@dataclass(frozen=True, slots=True)
class Job:
    """Documents to read into one session: always whole ones, from their first byte."""

    session: str
    conversation: str = ""
    learn: bool = True
    keep_open: bool = False
    replace: bool = False
    as_text: bool = False
    budget: float | None = None
    detach: bool = False
    json: bool = False


class _Outcome(Enum):
    """Outcome of a document, as the last line counts them."""

    READ = "read"
    QUEUED = "left to the server"
    KNOWN = "read before"
    SKIPPED = "skipped"
    FAILED = "failed"


def ingest(app: App) -> int:
    """Reads files, folders or standard input into a session."""
    args = app.args
    if args.status or args.cancel:
        return show_reading(app) if args.status else cancel_reading(app)
    if not args.files:
        app.terminal.note("hope: name a file, a folder, or - for standard input.")
        return 2
    if args.detach and args.keep_open:
        app.terminal.note("hope: a document that is left to the server is read to its end.")
        return 2
    if args.document and (len(args.files) > 1 or Path(args.files[0]).is_dir()):
        app.terminal.note("hope: --document names one file; of several each has its own name.")
        return 2
    if "-" in args.files and not args.document:
        app.terminal.note("hope: name what comes from standard input with --document NAME.")
        return 2
    items = choose(args.files, args.include)
    if args.document:
        items = [Item(items[0].file, args.document)]
    job = Job(
        session=args.session,
        conversation=args.conversation,
        learn=not args.no_learn,
        keep_open=args.keep_open,
        replace=args.replace,
        as_text=args.as_text,
        budget=args.budget,
        detach=args.detach,
        json=args.json,
    )
    return run_job(app, job, items)


def run_job(app: App, job: Job, items: Sequence[Item]) -> int:
    """Reads the documents one after the other; Ctrl-C stops where the server's memory ends."""
    if not items:
        app.terminal.note("hope: there is no file to read in that folder; see --include.")
        return FAILED
    try:
        if len(items) == 1:
            outcome = app.run(_run(app, job, items[0]))
            if outcome is _Outcome.READ:
                _show_practised(app, job, [items[0].document])
            return FAILED if outcome is _Outcome.FAILED else 0
        return _run_all(app, job, items)
    except KeyboardInterrupt:
        app.terminal.note("Stopped. The committed part is kept; run the same command to resume.")
        return INTERRUPTED


def _run_all(app: App, job: Job, items: Sequence[Item]) -> int:
    """One document that cannot be read does not keep the others from being read."""
    if len(items) > PLACES:
        app.terminal.note(
            f"A session keeps the offsets of the last {PLACES} documents, and these are "
            f"{len(items)}: a repeated command would read the first ones again."
        )
    outcomes: Counter[_Outcome] = Counter()
    read: list[str] = []
    for number, item in enumerate(items, start=1):
        lead = f"[{number}/{len(items)}] "
        try:
            outcome = app.run(_run(app, job, item, lead))
        except NotTextError as error:
            # In a folder there may be anything; what was named by hand should have been text.
            outcome = _Outcome.SKIPPED if item.found else _Outcome.FAILED
            app.terminal.note(f"{lead}hope: {error}")
        except FailedPreconditionError as error:
            if error.reason != DIFFERS:
                raise
            outcome = _Outcome.FAILED
            app.terminal.note(f"{lead}hope: {error}")
        except OSError as error:
            outcome = _Outcome.FAILED
            app.terminal.note(f"{lead}hope: {item.file}: {error.strerror or error}")
        outcomes[outcome] += 1
        if outcome is _Outcome.READ:
            read.append(item.document)
    _show_practised(app, job, read)
    figures = ", ".join(f"{outcomes[each]} {each.value}" for each in _Outcome if outcomes[each])
    if job.json:
        counts = {each.name.lower(): outcomes[each] for each in _Outcome}
        app.terminal.json({"event": "end", **counts})
    else:
        app.terminal.print(f"{len(items)} documents: {figures}.")
    return FAILED if outcomes[_Outcome.FAILED] else 0


def _show_practised(app: App, job: Job, documents: Sequence[str]) -> None:
    # Once for all documents: the server reads the session's whole log for it.
    if documents and job.learn and not job.json:
        app.run(show_most_surprising(app, job.session, documents))


async def _run(app: App, job: Job, item: Item, lead: str = "") -> _Outcome:
    with Text(item, as_text=job.as_text) as text:
        text.open(stdin_pieces())
        if text.total == 0:
            raise NotTextError(f"{text.name}: the document is empty")
        document = await app.client.sessions.document(job.session, item.document)
        if document is not None:
            if document.ended or job.replace:
                # What comes once must be compared before it is known what to do with it.
                await text.keep(None if job.replace else document.committed_bytes + 1)
            same = text.file is None or _same(text, document)
            if not same and not job.replace:
                raise _differs(document)
            if same and document.ended:
                _say_known(app, job, item, document)
                return _Outcome.KNOWN
            if not same:
                await _forget(app, job, document)
                document = None
        committed = document.committed_bytes if document else 0
        try:
            outcome = await _read(app, job, item, text, committed, lead)
        except FailedPreconditionError as error:
            if error.reason != DIFFERS or document is None:
                raise
            raise _differs(document) from None
        return outcome


def _same(text: Text, document: sessions_pb2.Document) -> bool:
    """Whether a text begins with what was committed, and is as long if that was all of it."""
    assert text.total is not None
    size = document.committed_bytes
    if text.total < size or (document.ended and text.total != size):
        return False
    # An older server says nothing of what it read.
    return document.content_digest in (b"", text.digest(size))


def _differs(document: sessions_pb2.Document) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"the session has a different document {document.name} "
        f"of {count(document.committed_bytes)} bytes; name this one with --document NAME, "
        "or replace that document with --replace",
        reason=DIFFERS,
    )


def _say_known(app: App, job: Job, item: Item, document: sessions_pb2.Document) -> None:
    if job.json:
        app.terminal.json({"event": "complete", **to_plain(document)})
    else:
        size = count(document.committed_bytes)
        app.terminal.print(f"{item.document} was already read completely ({size} bytes).")


async def _forget(app: App, job: Job, document: sessions_pb2.Document) -> None:
    if not job.json:
        app.terminal.note(
            f"Forgetting the other {document.name}: the session is learnt again without it ..."
        )
    await app.client.sessions.forget_document(job.session, document.name)


async def _read(app: App, job: Job, item: Item, text: Text, committed: int, lead: str) -> _Outcome:
    outcome = _Outcome.READ
    if job.json:
        app.terminal.json(
            {
                "event": "start",
                "document": item.document,
                "committed_bytes": committed,
                "total_bytes": text.total,
            }
        )
    elif committed:
        of_total = f" of {count(text.total)}" if text.total is not None else ""
        app.terminal.note(f"Resuming {item.document} at byte {count(committed)}{of_total}.")
    if job.learn and not job.json:
        await _say_budget(app, job)
    source = text.file or text.pieces
    assert source is not None
    events = app.client.ingest_events(
        job.session,
        source,
        document=item.document,
        conversation=job.conversation,
        learn=None if job.learn else False,
        budget=job.budget,
        detach=job.detach,
        end_of_document=not job.keep_open,
        resume_at_bytes=committed,
    )
    began = time.monotonic()
    async with contextlib.aclosing(events):
        with view_of(app, lead + item.document, committed, text.total, json=job.json) as view:
            async for event in events:
                view.show(event)
                if not isinstance(event, pb.IngestResult):
                    continue
                outcome = _Outcome.QUEUED if event.queued else outcome
                if not job.json:
                    view.stop()
                    line = _summary(item.document, event, time.monotonic() - began)
                    app.terminal.print(lead + line)
    return outcome


async def _say_budget(app: App, job: Job) -> None:
    session = await app.client.sessions.get(job.session)
    budget = session.document_budget if job.budget is None else job.budget
    if job.budget is not None or session.HasField("document_budget"):
        app.terminal.note(
            f"Budget: learning runs at most {budget:g} tokens forward and backward for each token "
            "of a document."
        )


def _summary(document: str, result: pb.IngestResult, elapsed_seconds: float) -> str:
    if result.queued:
        return f"{document} is read by the server; `hope ingest --status` shows how far it is."
    parts = [
        f"{size(result.committed_bytes)}",
        f"{count(result.tokens)} tokens in {duration(elapsed_seconds)}",
        f"memory version {result.memory_version}",
    ]
    if result.HasField("surprise_nats"):
        parts.insert(2, f"surprise {result.surprise_nats:.2f}")
    if result.learning.practised_statements:
        parts.append(practised(result.learning))
    return f"Read {document}{'' if result.ended else ' (left open)'}: {', '.join(parts)}."
