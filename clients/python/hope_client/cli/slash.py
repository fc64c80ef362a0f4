"""The slash commands of `hope chat`.

Knows what each does to the session or to the chat; the chat itself is in
`chat.py`. What a command was asked to show goes to stdout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hope_client.cli.chat import Chat
from hope_client.cli.documents import choose
from hope_client.cli.ingest import Job, run_job
from hope_client.cli.learning import learn
from hope_client.cli.memory import forget_in_chat
from hope_client.cli.sessions import drift
from hope_client.cli.view import rolled_back
from hope_client.errors import NotFoundError


@dataclass(frozen=True, slots=True)
class _Command:
    usage: str
    summary: str
    run: Callable[[str], None]

    def accepts(self, argument: str) -> bool:
        """Whether the usage asks for an argument, allows one, or has none."""
        if "[" in self.usage:
            return True
        return bool(argument) == (" " in self.usage)


class SlashCommands:
    """Commands by name; a new one is one entry and one method."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._commands = {
            "/new": _Command(
                "/new [NAME]", "end this conversation, learn it, and start another", self._new
            ),
            "/read-only": _Command(
                "/read-only", "turn learning from your messages off or on", self._read_only
            ),
            "/fork": _Command(
                "/fork NAME", "copy the session and continue in the copy", self._fork
            ),
            "/rollback": _Command(
                "/rollback [VERSION]", "return to an earlier version", self._rollback
            ),
            "/drift": _Command(
                "/drift", "show how far the memory is from the base model", self._drift
            ),
            "/ingest": _Command("/ingest FILE", "read a document or a folder", self._ingest),
            "/forget": _Command(
                "/forget TEXT", "find statements by their words, and forget them", self._forget
            ),
            "/help": _Command(
                "/help", "show this list; start a message with // to send a leading /", self._help
            ),
            "/quit": _Command("/quit", "leave", self._help),
        }

    def run(self, line: str) -> bool:
        """Runs the command in `line`; False means leave.

        Raises:
            HopeClientError, OSError, KeyboardInterrupt: as the command does.
        """
        name, _, argument = line.partition(" ")
        if name == "/quit":
            return False
        command = self._commands.get(name)
        argument = argument.strip()
        if command is None:
            self._chat.terminal.note(f"Unknown command {name}; type /help for the list.")
        elif not command.accepts(argument):
            self._chat.terminal.note(f"Usage: {command.usage}")
        else:
            command.run(argument)
        return True

    def _new(self, name: str) -> None:
        chat = self._chat
        if chat.begun:
            chat.terminal.note(f"Ending conversation {chat.conversation} and learning it.")
            sessions = chat.app.client.sessions
            try:
                learn(chat.app, sessions.end_conversation(chat.session, chat.conversation))
            except NotFoundError:
                chat.terminal.note("The conversation had already ended.")
            except KeyboardInterrupt:
                chat.terminal.note("The server is still learning; the next turn waits for it.")
        else:
            chat.terminal.note("Nothing was said yet, so there is nothing to learn.")
        chat.conversation = name or chat.conversation
        self._look_up()

    def _read_only(self, _: str) -> None:
        chat = self._chat
        chat.read_only = not chat.read_only
        chat.terminal.note(
            "Learning is off; messages from now on are not learnt."
            if chat.read_only
            else "Learning is on; the session learns from your messages."
        )

    def _fork(self, name: str) -> None:
        chat = self._chat
        session = chat.app.run(chat.app.client.sessions.fork(chat.session, name))
        chat.session = session.name
        chat.begun = chat.conversation in session.conversations
        chat.terminal.print(
            f"Forked at version {session.memory_version}; this chat continues in {session.name}."
        )

    def _rollback(self, argument: str) -> None:
        chat = self._chat
        if argument and not argument.isdecimal():
            chat.terminal.note("VERSION must be a number; /drift shows the current one.")
            return
        version = int(argument) if argument else None
        session = chat.app.run(chat.app.client.sessions.rollback(chat.session, version))
        chat.begun = chat.conversation in session.conversations
        chat.terminal.print(rolled_back(session))

    def _drift(self, _: str) -> None:
        chat = self._chat
        drift(chat.terminal, chat.app.run(chat.app.client.sessions.get(chat.session)))

    def _ingest(self, file: str) -> None:
        chat = self._chat
        items = choose([str(Path(file).expanduser())], [])
        code = run_job(chat.app, Job(session=chat.session, learn=not chat.read_only), items)
        if code and not chat.terminal.interactive:
            raise SystemExit(code)  # a script must learn that a line failed

    def _forget(self, text: str) -> None:
        forget_in_chat(self._chat, text)

    def _help(self, _: str) -> None:
        for command in self._commands.values():
            self._chat.terminal.print(f"{command.usage:20}{command.summary}")

    def _look_up(self) -> None:
        chat = self._chat
        session = chat.app.run(chat.app.client.sessions.get(chat.session))
        chat.begun = chat.conversation in session.conversations
