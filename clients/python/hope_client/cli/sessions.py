"""`hope sessions ...`: the actions that make, show, copy, rename and delete sessions.

Its `drift` is also what the chat uses; versions and learning are in the modules of these names.
"""

from __future__ import annotations

from hope.v1 import sessions_pb2 as pb

from hope_client.cli.app import App
from hope_client.cli.terminal import Terminal
from hope_client.cli.view import (
    LEVEL_HEADERS,
    count,
    level_rows,
    moment,
    short_name,
    size,
    to_plain,
)


def run_list(app: App) -> int:
    """Lists the user's sessions."""

    async def collect() -> list[pb.Session]:
        return [session async for session in app.client.sessions.list()]

    sessions = app.run(collect())
    if app.args.json:
        app.terminal.json({"sessions": [to_plain(session) for session in sessions]})
    elif not sessions:
        app.terminal.note(
            "No sessions yet; create one with `hope chat NAME` or `hope sessions create NAME`."
        )
    else:
        app.terminal.table(
            ("session", "version", "learnable tokens", "waiting", "state", "stored", "updated"),
            [
                (
                    short_name(each.name),
                    count(each.memory_version),
                    count(each.learnable_tokens),
                    count(each.pending_tokens),
                    size(each.state_bytes),
                    size(each.stored_bytes),
                    moment(each.update_time),
                )
                for each in sessions
            ],
        )
        others = [short_name(each.name) for each in sessions if each.other_base]
        if others:
            app.terminal.note(
                f"{len(others)} of {len(sessions)} sessions belong to another base model than the "
                f"server runs, and take no turn until it is served: {', '.join(others)}."
            )
    return 0


def run_create(app: App) -> int:
    """Makes an empty session."""
    args = app.args
    session = app.run(
        app.client.sessions.create(args.session, display_name=args.display_name, policy=args.policy)
    )
    return report(app, session, f"Created {session.name}.")


def run_show(app: App) -> int:
    """Prints everything about a session."""
    session = app.run(app.client.sessions.get(app.args.session))
    if app.args.json:
        app.terminal.json(to_plain(session))
        return 0
    title = f' "{session.display_name}"' if session.display_name else ""
    app.terminal.print(f"{session.name}{title}, policy {session.policy or 'default'}")
    app.terminal.print(
        f"created {moment(session.create_time)}, updated {moment(session.update_time)}, "
        f"{count(session.log_records)} log records"
    )
    app.terminal.print(
        f"learnable tokens {count(session.learnable_tokens)}, not learnt yet "
        f"{count(session.pending_tokens)}"
    )
    app.terminal.print(f"conversations: {', '.join(session.conversations) or '-'}")
    for document in session.documents:
        state = "complete" if document.ended else "open"
        app.terminal.print(f"document {document.name}: {size(document.committed_bytes)}, {state}")
    drift(app.terminal, session)
    return 0


def run_delete(app: App) -> int:
    """Erases a session, after a question on a terminal."""
    args = app.args
    name = app.client.sessions.name(args.session)
    if app.terminal.interactive and not args.yes:
        answer = input(f"Delete {name} with its memory and log permanently? [y/N] ")
        if answer.strip().lower() not in ("y", "yes"):
            app.terminal.note("Nothing was deleted.")
            return 1
    app.run(app.client.sessions.delete(args.session))
    if args.json:
        app.terminal.json({"deleted": name})
    else:
        app.terminal.print(f"Deleted {name}.")
    return 0


def run_delete_user(app: App) -> int:
    """Erases every session of the user, after a question; a script says --yes."""
    args = app.args
    if not args.yes:
        if not app.terminal.interactive:
            app.terminal.note(
                f"hope: this would permanently delete every session of {args.user}; confirm with "
                "--yes"
            )
            return 2
        answer = input(f"Permanently delete every session of {args.user}? [y/N] ")
        if answer.strip().lower() not in ("y", "yes"):
            app.terminal.note("Nothing was deleted.")
            return 1
    sessions = app.run(app.client.sessions.delete_user())
    if args.json:
        app.terminal.json({"user": args.user, "deleted_sessions": sessions})
    else:
        app.terminal.print(f"Deleted {count(sessions)} sessions of {args.user}.")
    return 0


def run_fork(app: App) -> int:
    """Copies a session."""
    args = app.args
    session = app.run(
        app.client.sessions.fork(args.session, args.new_session, version=args.version)
    )
    return report(app, session, f"Forked to {session.name} at version {session.memory_version}.")


def run_rename(app: App) -> int:
    """Changes the display name."""
    args = app.args
    session = app.run(app.client.sessions.rename(args.session, args.display_name))
    return report(
        app, session, f'The display name of {session.name} is now "{session.display_name}".'
    )


def drift(terminal: Terminal, session: pb.Session) -> None:
    """Table of the levels' distances from the base model, and the memory's version."""
    if session.levels:
        terminal.table(LEVEL_HEADERS, level_rows(session))
    terminal.print(
        f"state {size(session.state_bytes)}, version {session.memory_version}, "
        f"memory hash {session.memory_hash or '-'}"
    )


def report(app: App, session: pb.Session, line: str) -> int:
    """Prints what became of a session: the line, or with --json the session."""
    if app.args.json:
        app.terminal.json(to_plain(session))
    else:
        app.terminal.print(line)
    return 0
