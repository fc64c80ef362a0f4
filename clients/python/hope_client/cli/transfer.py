"""`hope sessions export` and `import`: a session as a file, for another server.

Knows files; what is in them is the server's business.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import BinaryIO

from hope_client.cli.app import App
from hope_client.cli.sessions import report
from hope_client.cli.view import count, size


def run_export(app: App) -> int:
    """Writes a session to a file. A file that is there already is left alone."""
    args = app.args

    async def collect() -> int:
        written = 0
        with args.file.open("xb") as file:
            try:
                async for piece in app.client.sessions.export(args.session):
                    written += file.write(piece)
            except BaseException:
                args.file.unlink()  # half an export is none
                raise
        return written

    try:
        written = app.run(collect())
    except FileExistsError:
        app.terminal.note(f"hope: {args.file} already exists; choose another file")
        return 1
    if args.json:
        app.terminal.json({"file": str(args.file), "bytes": written})
    else:
        app.terminal.print(f"Exported {size(written)} to {args.file}.")
    return 0


def run_import(app: App) -> int:
    """Makes a session out of an exported file."""
    args = app.args

    async def pieces(file: BinaryIO) -> AsyncIterator[bytes]:
        while piece := file.read(1 << 20):
            yield piece

    with args.file.open("rb") as file:
        session = app.run(app.client.sessions.import_(args.session, pieces(file)))
    return report(
        app, session, f"Imported {session.name} with {count(session.log_records)} log records."
    )
