"""`hope chat`: the loop of a chat in the terminal, and its turns.

Knows prompts, interruptions and what a chat remembers between turns; the slash
commands are in `slash.py`. Replies go to stdout, all else to stderr, so a piped
chat is plain text.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from hope.v1 import inference_pb2 as pb

from hope_client.cli.app import INTERRUPTED, App
from hope_client.cli.memory import asks_to_forget
from hope_client.cli.streams import read_line
from hope_client.cli.turns import messages_of, sampling_of, show_reply
from hope_client.cli.view import count
from hope_client.errors import HopeClientError


class Chat:
    """A chat: one session, one conversation at a time."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.terminal = app.terminal
        self.session = app.client.sessions.name(app.args.session)
        self.conversation: str = app.args.conversation or "default"
        self.read_only: bool = app.args.no_learn
        # Whether this conversation has a window at the server: instructions open
        # a conversation, and one that never began has nothing to end.
        self.begun = False
        self.lines_read = 0
        self._sampling = sampling_of(app.args)

    def enter(self) -> None:
        """Finds the session, or makes it, and says where it stands."""
        session, created = self.app.run(self.app.client.sessions.get_or_create(self.session))
        self.begun = self.conversation in session.conversations
        if created:
            self.terminal.note(f"New session {session.name}; type /help for commands.")
        else:
            self.terminal.note(
                f"{session.name}, version {session.memory_version}, "
                f"{count(session.learnable_tokens)} learnable tokens; type /help for commands."
            )
        if self.begun and self.app.args.system:
            self.terminal.note(
                f"Continuing conversation {self.conversation}; --system applies to the next one, "
                "after /new."
            )

    def turn(self, text: str) -> None:
        """Says `text` and streams the reply; Ctrl-C cancels the turn.

        Raises:
            HopeClientError: the turn failed.
            KeyboardInterrupt: it was cancelled.
        """
        args = self.app.args
        if asks_to_forget(text):
            self.terminal.note(
                "(nothing was forgotten: a message only adds to the memory; use /forget TEXT to "
                "find a statement and forget it)"
            )
        events = self.app.client.generate(
            self.session,
            messages_of("" if self.begun else args.system, text),
            conversation=self.conversation,
            learn=False if self.read_only else None,
            ephemeral=args.ephemeral,
            sampling=self._sampling,
        )
        lead = "hope> " if self.terminal.interactive else ""
        result = self.app.run(show_reply(self.terminal, events, lead=lead))
        if self.begun and result.window_began and not result.replayed:
            self.terminal.note(
                f"(the window of conversation {self.conversation} began anew: a session keeps the "
                "last 8, or somebody ended this one; its lessons stay)"
            )
        if result.dropped_conversation:
            self.terminal.note(
                f"(conversation {result.dropped_conversation} lost its window to this one: a "
                "session keeps the last 8; its lessons stay)"
            )
        if not args.ephemeral:
            self.begun = True
        if result.finish_reason == pb.FINISH_REASON_LENGTH:
            self.terminal.note("(truncated: the reply reached its length limit; see --max-tokens)")

    def prompt(self) -> str:
        """The prompt before the user's input."""
        return "you (read-only)> " if self.read_only else "you> "


def chat(app: App) -> int:
    """Runs a chat until /quit, the end of the input, or Ctrl-C twice."""
    from hope_client.cli.slash import SlashCommands

    session = Chat(app)
    session.enter()
    commands = SlashCommands(session)
    return _loop(session, commands.run)


def _loop(chat: Chat, run_command: Callable[[str], bool]) -> int:
    terminal = chat.terminal
    interrupted_once = False
    while True:
        try:
            line = _read_line(chat)
        except KeyboardInterrupt:
            terminal.print()
            if interrupted_once or not terminal.interactive:
                return INTERRUPTED
            interrupted_once = True
            terminal.note("Press Ctrl-C again, or type /quit, to leave.")
            continue
        interrupted_once = False
        if line is None:
            return 0
        text = line.strip()
        if not text:
            continue
        try:
            if text.startswith("/") and not text.startswith("//"):
                if not run_command(text):
                    return 0
            else:
                chat.turn(text.removeprefix("/") if text.startswith("//") else text)
        except KeyboardInterrupt:
            terminal.print()
            if text.startswith("/"):
                terminal.note("Interrupted.")
            else:
                terminal.note("Cancelled; this turn was discarded.")
            if not terminal.interactive:
                return INTERRUPTED
        except (HopeClientError, OSError) as error:
            # At a terminal the chat goes on; a script must learn that a line failed.
            if not terminal.interactive:
                raise
            line = chat.app.explain(error) if isinstance(error, HopeClientError) else str(error)
            terminal.note(f"hope: {line}")


def _read_line(chat: Chat) -> str | None:
    """The next line, None at the end of the input."""
    if not chat.terminal.interactive:
        chat.lines_read += 1
        return read_line(chat.lines_read)
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (gives input() a history and keys to edit with)
    try:
        return input(chat.prompt())
    except EOFError:
        chat.terminal.print()
        return None
