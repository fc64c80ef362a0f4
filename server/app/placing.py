"""Placing: which messages of a history a conversation's window has to read.

A window that holds the beginning of the history reads the rest. Another one begins anew with as
much of the end of the history as it holds beside a reply. Pure functions of a memory and a turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hope_runtime.engine.prompt import Message, check_messages
from hope_runtime.engine.turn import DEFAULT_MAX_TOKENS, GenerateTurn
from hope_runtime.errors import WindowOverflowError
from hope_runtime.session.memory import SessionMemory
from server.app.sessions import Sessions

# What the template writes around a message, roughly; `check` has the last word.
_TEMPLATE_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Placing:
    """Places turns in windows of `window_tokens`; `check` raises WindowOverflowError for one that
    its window cannot hold."""

    check: Callable[[SessionMemory, GenerateTurn], None]
    window_tokens: int
    count_tokens: Callable[[str], int]

    @staticmethod
    def of(sessions: Sessions) -> Placing:
        """For the windows of a server's model."""
        engine, tokenizer = sessions.engine, sessions.tokenizer

        def count_tokens(text: str) -> int:
            return len(tokenizer.encode(text))

        return Placing(engine.check, engine.window_tokens, count_tokens)

    def placed(self, memory: SessionMemory, turn: GenerateTurn, users: int) -> GenerateTurn:
        """The turn, which has a whole history, in the window that holds the first `users` messages
        of its users: with the rest, or in a window that begins anew where that overflows it or it
        holds none. Raises WindowOverflowError."""
        if users:
            going_on = replace(turn, messages=merged(_behind(turn.messages, users=users)))
            try:
                self.check(memory, going_on)
                return going_on
            except WindowOverflowError:
                pass  # a window that begins anew has more room
        return self.anew(memory, turn)

    def anew(self, memory: SessionMemory, turn: GenerateTurn) -> GenerateTurn:
        """The turn, which has a whole history, in a window that begins with it, with as much of the
        history as that holds. Raises WindowOverflowError."""
        messages = list(with_one_system_message(turn.messages))
        system = [messages.pop(0)] if messages[0].role == "system" else []
        replies = [at for at, each in enumerate(messages) if each.role == "assistant"]
        end = replies[-1] + 1 if replies else 0
        reply = turn.sampling.max_tokens or DEFAULT_MAX_TOKENS
        start = self._first_that_fits(system, messages, end, reply)
        while True:
            while start < end and messages[start].role == "assistant":
                start += 1
            anew = replace(turn, messages=(*system, *messages[start:]), fresh=True)
            try:
                self.check(memory, anew)
                return anew
            except WindowOverflowError:
                if start >= end:
                    raise
                start += 1

    def _first_that_fits(
        self, system: Sequence[Message], messages: Sequence[Message], end: int, reply: int
    ) -> int:
        """Index of the first message of a history, up to `end`, that leaves room for a reply of so
        many tokens."""
        room = self.window_tokens - min(reply, self.window_tokens // 4)
        for message in (*system, *messages[end:]):
            room -= self._cost(message)
        start = end
        while start > 0 and (room := room - self._cost(messages[start - 1])) >= 0:
            start -= 1
        return start

    def _cost(self, message: Message) -> int:
        return self.count_tokens(message.content) + _TEMPLATE_TOKENS


def merged(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages with equal ones in a row as one, which many chat templates ask for. A message
    that teaches is not merged with one that does not."""
    found: list[Message] = []
    for message in messages:
        if found and (found[-1].role, found[-1].learn) == (message.role, message.learn):
            text = f"{found[-1].content}\n{message.content}"
            found[-1] = replace(message, content=text)
        else:
            found.append(message)
    return tuple(found)


def with_one_system_message(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages with all system messages as one in front. Raises InvalidRequestError for what
    cannot open a turn."""
    system = [replace(each, learn=False) for each in messages if each.role == "system"]
    found = (*merged(system), *merged([each for each in messages if each.role != "system"]))
    check_messages(found)
    return found


def spoken(messages: Sequence[Message]) -> list[Message]:
    """The messages that a window reads which holds those before them: it has their reply, and a
    date in a system prompt is no reason to read everything anew."""
    rest = [each for each in messages if each.role != "system"]
    while rest[0].role == "assistant":
        del rest[0]
    return rest


def _behind(messages: Sequence[Message], *, users: int) -> list[Message]:
    """The messages behind the user message of that number."""
    places = [at for at, each in enumerate(messages) if each.role == "user"]
    return spoken(messages[places[users - 1] + 1 :])
