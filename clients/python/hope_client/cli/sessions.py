"""`hope sessions ...`: one function an action.

Knows how sessions are shown; `drift` and `learn` are also what the chat uses.
"""

from __future__ import annotations

import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from hope.v1 import sessions_pb2 as pb

from hope_client.cli.app import App
from hope_client.cli.terminal import Terminal
from hope_client.cli.view import (
    LEVEL_HEADERS,
    count,
    learnt_lines,
    level_rows,
    moment,
    short_name,
    size,
    to_plain,
)

AnswerT = TypeVar("AnswerT", pb.ConsolidateResponse, pb.EndConversationResponse)


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


def run_rollback(app: App) -> int:
    """Returns to an earlier version."""
    session = app.run(app.client.sessions.rollback(app.args.session, app.args.version))
    return report(app, session, rolled_back(session))


def run_snapshot(app: App) -> int:
    """Names the present version."""
    snapshot = app.run(app.client.sessions.snapshot(app.args.session, app.args.snapshot))
    if app.args.json:
        app.terminal.json(to_plain(snapshot))
    else:
        name = snapshot.name.rpartition("/")[2]
        app.terminal.print(f"Version {snapshot.version} is kept as snapshot {name}.")
    return 0


def run_delete_snapshot(app: App) -> int:
    """Takes the name of a version away."""
    args = app.args
    app.run(app.client.sessions.delete_snapshot(args.session, args.snapshot))
    if args.json:
        app.terminal.json({"deleted": args.snapshot})
    else:
        app.terminal.print(f"Deleted snapshot {args.snapshot}.")
    return 0


def run_snapshots(app: App) -> int:
    """Lists the names of versions."""

    async def collect() -> list[pb.Snapshot]:
        return [each async for each in app.client.sessions.snapshots(app.args.session)]

    found = app.run(collect())
    if app.args.json:
        app.terminal.json({"snapshots": [to_plain(each) for each in found]})
    elif not found:
        app.terminal.note(
            f"No snapshots yet; create one with `hope sessions snapshot {app.args.session} NAME`."
        )
    else:
        app.terminal.table(
            ("snapshot", "version", "made"),
            [
                (each.name.rpartition("/")[2], count(each.version), moment(each.create_time))
                for each in found
            ],
        )
    return 0


def run_rename(app: App) -> int:
    """Changes the display name."""
    args = app.args
    session = app.run(app.client.sessions.rename(args.session, args.display_name))
    return report(
        app, session, f'The display name of {session.name} is now "{session.display_name}".'
    )


def run_reset(app: App) -> int:
    """Returns levels to the base model."""
    args = app.args
    session = app.run(app.client.sessions.reset(args.session, *args.levels))
    which = "All levels were" if not args.levels else f"Levels {_listed(args.levels)} were"
    return report(
        app,
        session,
        f"{which} reset to the base model in version {session.memory_version}; undo with `hope "
        f"sessions rollback {short_name(session.name)}`.",
    )


def run_diff(app: App) -> int:
    """Shows how much of each level changed."""
    args = app.args
    answer = app.run(app.client.sessions.diff(args.session, args.before, args.after))
    if args.json:
        app.terminal.json(to_plain(answer))
    else:
        app.terminal.table(
            ("level", "change"),
            [(str(each.level), f"{each.relative_norm:.5f}") for each in answer.levels],
        )
        for each in answer.taught:
            source = f"document {each.document}" if each.document else each.conversation
            sign = "-" if each.taken_back else "+"
            app.terminal.print(
                f"{sign} {source}, {count(each.learnable_tokens)} tokens: "
                f"{' '.join(each.excerpt.split())}{' ...' if each.truncated else ''}"
            )
        if answer.next_page_token:
            app.terminal.note("More changes exist; read all of them with HopeClient.sessions.diff.")
    return 0


def run_consolidate(app: App) -> int:
    """Learns now what waits for a boundary."""
    answer = learn(app, app.client.sessions.consolidate(app.args.session), quiet=app.args.json)
    if app.args.json:
        app.terminal.json(to_plain(answer))
    return 0


def run_end_conversation(app: App) -> int:
    """Closes a conversation and, unless told otherwise, waits until it is learnt."""
    args = app.args
    work = app.client.sessions.end_conversation(
        args.session, args.conversation, wait=not args.no_wait
    )
    if args.no_wait:
        answer = app.run(work)
        if not args.json:
            app.terminal.print(
                "The conversation ended; the server is learning it in the background."
            )
    else:
        answer = learn(app, work, quiet=args.json)
    if args.json:
        app.terminal.json(to_plain(answer))
    return 0


def drift(terminal: Terminal, session: pb.Session) -> None:
    """Table of the levels' distances from the base model, and the memory's version."""
    if session.levels:
        terminal.table(LEVEL_HEADERS, level_rows(session))
    terminal.print(
        f"state {size(session.state_bytes)}, version {session.memory_version}, "
        f"memory hash {session.memory_hash or '-'}"
    )


def rolled_back(session: pb.Session) -> str:
    """One sentence that describes a rollback."""
    return (
        f"Rolled back to version {session.parent_version}; the session is now at version "
        f"{session.memory_version}."
    )


def learn(app: App, work: Coroutine[Any, Any, AnswerT], *, quiet: bool = False) -> AnswerT:
    """Waits for a consolidation and, unless `quiet`, says what it did."""
    began = time.monotonic()

    async def wait() -> AnswerT:
        with app.terminal.busy() as busy:
            if app.terminal.err.isatty():
                busy.show("learning ...")
            return await work

    answer = app.run(wait())
    if not quiet:
        first, *others = learnt_lines(answer.consolidations, time.monotonic() - began)
        app.terminal.print(f"learning ... {first}")
        for line in others:
            app.terminal.print(line)
    return answer


def _listed(levels: list[int]) -> str:
    return ", ".join(map(str, levels))


def report(app: App, session: pb.Session, line: str) -> int:
    """Prints what became of a session: the line, or with --json the session."""
    if app.args.json:
        app.terminal.json(to_plain(session))
    else:
        app.terminal.print(line)
    return 0
