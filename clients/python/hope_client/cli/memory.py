"""`hope memory ...` and `/forget`: what a session was taught, shown and forgotten.

Knows how statements are shown and asked about; a forgetting is a job (`jobs.py`).
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING

from hope.v1 import sessions_pb2 as pb

from hope_client.cli.app import INTERRUPTED, App
from hope_client.cli.jobs import watched
from hope_client.cli.sessions import report
from hope_client.cli.terminal import Terminal
from hope_client.cli.view import count, moment, to_plain
from hope_client.errors import UnimplementedError

if TYPE_CHECKING:
    from hope_client.cli.chat import Chat

# The server reads the whole log for each page.
PAGE_SIZE = 1000
# Statements that a chat shows before it asks; more are too many to look through.
MOST_SHOWN = 20
# Statements of a document that are shown when it was read.
MOST_SURPRISING = 10
# A request to forget at the beginning of a message, which the model cannot fulfil.
_ASKS_TO_FORGET = re.compile(
    r"(?:please[, ]+)?(?:(?:can|could|would|will) you )?(?:please )?(?:forget|unlearn) "
    r"(?:that|about|what|my|the|everything|all|it|this)\b",
    re.IGNORECASE,
)


def run_list(app: App) -> int:
    """Lists what a session was taught."""
    args = app.args

    def statements() -> AsyncGenerator[pb.Statement, None]:
        return app.client.sessions.statements(
            args.session,
            args.query,
            document=args.document,
            rehearsed_only=args.rehearsed,
            page_size=PAGE_SIZE,
        )

    async def show() -> int:
        shown = 0
        async for each in statements():
            shown += 1
            show_statement(app.terminal, each)
        return shown

    async def collect() -> list[pb.Statement]:
        return [each async for each in statements()]

    if args.json:
        app.terminal.json({"statements": [to_plain(each) for each in app.run(collect())]})
    elif not app.run(show()):
        app.terminal.note(
            "No statement matches."
            if args.query or args.document or args.rehearsed
            else "The session was not taught anything yet."
        )
    return 0


def run_forget(app: App) -> int:
    """Learns everything again without some statements."""
    args = app.args
    session = _forgotten(app, args.session, args.ids)
    if session is None:
        return INTERRUPTED
    return report(app, session, _done(len(set(args.ids)), session))


def forget_in_chat(chat: Chat, text: str) -> None:
    """Finds the statements that a text is about, and forgets them when the user says so."""
    app, terminal = chat.app, chat.terminal

    async def find() -> list[pb.Statement]:
        found = []
        async for each in app.client.sessions.statements(
            chat.session, text, page_size=MOST_SHOWN + 1
        ):
            found.append(each)
            if len(found) > MOST_SHOWN:
                break
        return found

    found = app.run(find())
    if not found:
        terminal.note("Nothing was forgotten: no statement has all of these words.")
        return
    for each in found[:MOST_SHOWN]:
        show_statement(terminal, each)
    if len(found) > MOST_SHOWN:
        terminal.note("Nothing was forgotten: more statements have these words; add some more.")
        return
    ids = [each.id for each in found]
    if not terminal.interactive:
        terminal.note(
            "Nothing was forgotten: this needs a confirmation at a terminal; use `hope memory "
            f"forget {chat.session} {' '.join(ids)}`."
        )
        return
    terminal.note("Forgetting learns everything else again; a rollback undoes it.")
    what = "this statement" if len(ids) == 1 else f"all {len(ids)} statements"
    answer = input(f"Forget {what}? [y/N{' or ids' if len(ids) > 1 else ''}] ")
    chosen = ids if answer.strip().lower() in ("y", "yes") else answer.replace(",", " ").split()
    if not chosen or not set(chosen) <= set(ids):
        terminal.note("Nothing was forgotten.")
        return
    session = _forgotten(app, chat.session, chosen)
    if session is not None:
        chat.begun = chat.conversation in session.conversations
        terminal.print(_done(len(set(chosen)), session))


async def show_most_surprising(app: App, session: str, documents: Sequence[str]) -> None:
    """Prints what was practised of some documents: their most surprising statements."""
    one = documents[0] if len(documents) == 1 else ""
    listed = app.client.sessions.statements(
        session, document=one, rehearsed_only=True, page_size=PAGE_SIZE
    )
    wanted = set(documents)
    try:
        found = [each async for each in listed if each.document in wanted]
    except UnimplementedError:  # an older server
        return
    if not found:
        return
    found.sort(key=lambda each: -each.surprise_nats)
    most = found[:MOST_SURPRISING]
    number = f"{count(len(found))} statement{'s' if len(found) > 1 else ''}"
    app.terminal.print(f"Practised {number} of {'it' if one else 'them'}, most surprising first:")
    for each in most:
        source = "" if one else f"{each.document}, "
        place = f"  {each.surprise_nats:4.1f} nats, {source}byte {count(each.offset_bytes)}"
        app.terminal.print(f"{place}: {_text(each)}")


def asks_to_forget(text: str) -> bool:
    """Whether a message asks for something to be forgotten."""
    return bool(_ASKS_TO_FORGET.match(text))


def show_statement(terminal: Terminal, statement: pb.Statement) -> None:
    """Prints a statement, and below it where it is from and what became of it."""
    terminal.print(f"{statement.id:8} {_text(statement)}")
    about = [moment(statement.create_time)] if statement.create_time.seconds else []
    if statement.document:
        about.append(f"document {statement.document}, byte {count(statement.offset_bytes)}")
    else:
        about.append(f"conversation {statement.conversation}")
    about.append(_state(statement))
    if statement.superseded_by:
        about.append(f"corrected by {statement.superseded_by}")
    terminal.print(f"{'':8} {', '.join(about)}")


def _text(statement: pb.Statement) -> str:
    return f"{' '.join(statement.text.split())}{' ...' if statement.truncated else ''}"


def _state(statement: pb.Statement) -> str:
    if not statement.levels:
        return "not learnt yet"
    levels = ", ".join(map(str, statement.levels))
    version = f" in version {statement.memory_version}" if statement.memory_version else ""
    return f"learnt{version} (level{'s' if len(statement.levels) > 1 else ''} {levels})"


def _forgotten(app: App, session: str, ids: list[str]) -> pb.Session | None:
    return watched(
        app,
        session,
        lambda show: app.client.sessions.forget_statements(session, *ids, on_progress=show),
    )


def _done(number: int, session: pb.Session) -> str:
    return (
        f"Forgot {count(number)} statement{'s' if number > 1 else ''}; the session is now at "
        f"version {session.memory_version}."
    )
