"""`hope sessions ...`: the actions that make a session learn now.

`learn` is also what the chat uses.
"""

from __future__ import annotations

import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from hope.v1 import sessions_pb2 as pb

from hope_client.cli.app import App
from hope_client.cli.view import learnt_lines, to_plain

AnswerT = TypeVar("AnswerT", pb.ConsolidateResponse, pb.EndConversationResponse)


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
