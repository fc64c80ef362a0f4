"""`hope ingest --status` and `--cancel`: documents that the server reads in the background."""

from __future__ import annotations

from hope.v1 import sessions_pb2 as pb
from hope.v1.inference_pb2 import IngestLearning

from hope_client.cli.app import App
from hope_client.cli.progress import practised
from hope_client.cli.view import count, duration, to_plain


def show_reading(app: App) -> int:
    """Prints the queue of a session, the document at work first."""
    session = app.run(app.client.sessions.get(app.args.session))
    queued = session.job.read_documents.documents
    if app.args.json:
        app.terminal.json({"documents": [to_plain(each) for each in queued]})
        return 0
    for document in queued:
        app.terminal.print(_line(document))
    if not queued:
        app.terminal.print(f"{session.name} reads nothing in the background.")
    return 0


def cancel_reading(app: App) -> int:
    """Ends a session's reading in the background, and nothing else that it does."""
    session = app.run(app.client.sessions.get(app.args.session))
    if session.job.WhichOneof("work") == "read_documents":
        session = app.run(app.client.sessions.cancel_job(app.args.session))
    begun = sum(not each.ended for each in session.documents)
    line = f"{session.name} reads nothing in the background"
    app.terminal.print(f"{line}; {count(begun)} documents are open." if begun else f"{line}.")
    return 0


def _line(document: pb.QueuedDocument) -> str:
    read, total = document.committed_bytes, document.total_bytes
    line = f"{document.name}: {count(read)} of {count(total)} bytes"
    if document.error:
        return f"{line}; cannot be read: {document.error}"
    seconds = document.duration.ToTimedelta().total_seconds()
    if not document.tokens or not seconds:
        return f"{line}, waiting"
    learning = IngestLearning(
        practised_statements=document.practised_statements, trained_tokens=document.trained_tokens
    )
    rate = document.tokens / seconds
    return f"{line}, {rate:.0f} tokens/s, {practised(learning)}, for {duration(seconds)}"
