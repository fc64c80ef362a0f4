"""Histories: chats whose clients send all of it with every request, mapped onto a session.

Such clients regenerate, edit, branch and trim what they send, so the request alone does not say
what is new. Three rules decide, by the texts of users only, because clients rewrite replies:

- Only user messages behind the last reply may teach. What comes before is context, whoever claims
  to have said it.
- Each teaches once. Its digest goes into a ring in the session's state, by the commit that makes
  the turn durable, so a crash cannot part them.
- Where the user texts that the conversation's window holds are the beginning of those in the
  request, the window goes on with the rest. Otherwise it begins anew with as much of the end of the
  history as it holds.

Pure functions of a memory and a request; knows no transport.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from hope_runtime.engine.prompt import Message, check_messages
from hope_runtime.engine.sampling import Sampling
from hope_runtime.engine.turn import DEFAULT_MAX_TOKENS, GenerateTurn
from hope_runtime.errors import WindowOverflowError
from hope_runtime.session.memory import SessionMemory
from server.app.generation import Plan, Planner
from server.app.replies import RequestId
from server.app.sessions import Sessions

# What the template writes around a message, roughly; `check` has the last word.
_TEMPLATE_TOKENS = 8
# Conversation.resume: the texts of its users, its last request, and the id of the stored reply.
_CHAIN, _BODY, _ID = slice(0, 16), slice(16, 32), slice(32, 48)
_PART_BYTES = 16


@dataclass(frozen=True, slots=True)
class History:
    """A request that carries a whole chat, oldest message first, the last one a user's.

    `body` is what the client sent; a repetition of the conversation's last one is answered from the
    store if `retried` says that the client repeats it. Replies of requests that `may_retry` are
    stored. `request` is the id that a client gave itself.

    With `after`, the number of an earlier turn, the messages are only those that follow on it.
    """

    conversation: str
    messages: tuple[Message, ...]
    sampling: Sampling = field(default_factory=Sampling)
    learn: bool = True
    body: bytes = b""
    may_retry: bool = False
    retried: bool = False
    request: RequestId | None = None
    after: bytes | None = None


class NotNewestError(Exception):
    """A turn cannot follow on another one that is not the conversation's newest, since only the
    window behind the newest one is kept."""


def planner(sessions: Sessions, history: History) -> Planner:
    """The plan of the turn that answers `history`, made from the session's memory."""
    engine, tokenizer = sessions.engine, sessions.tokenizer

    def count_tokens(text: str) -> int:
        return len(tokenizer.encode(text))

    return _Planning(history, engine.check, engine.window_tokens, count_tokens).plan


def turn_number(turn: GenerateTurn) -> bytes:
    """The number of a planned turn, under which another one can follow on it. A repetition that
    gets the stored reply has the number of the first."""
    return turn.resume[_ID]


def whole(history: History) -> GenerateTurn:
    """The turn that reads all of a history and teaches nothing."""
    return GenerateTurn(
        history.conversation,
        _with_one_system_message(history.messages),
        history.sampling,
        learn=False,
        fresh=True,
    )


@dataclass(frozen=True, slots=True)
class _Planning:
    history: History
    # Raises WindowOverflowError for a turn that the window cannot hold.
    check: Callable[[SessionMemory, GenerateTurn], None]
    window_tokens: int
    count_tokens: Callable[[str], int]

    def plan(self, memory: SessionMemory) -> Plan:
        """The turn, and the id under which its reply is stored. Raises NotNewestError."""
        history = self.history
        known = memory.conversations.get(history.conversation)
        resume = known.resume if known else b""
        body = _digest(_PART_BYTES, history.body)
        request = history.request
        if request is not None:
            # A repetition under the same id has the same number.
            number = _digest(_PART_BYTES, request.id)
            repeated = resume[_BODY] == body and resume[_ID] == number
        else:
            repeated = history.retried and resume[_BODY] == body
            # Its reply is stored, if it was committed; else it is answered under the same id.
            number = resume[_ID] if repeated else secrets.token_bytes(_PART_BYTES)
            if repeated or history.may_retry:
                request = _request_id(number, history.body)
        if history.after is not None and not repeated and history.after != resume[_ID]:
            raise NotNewestError
        # What was said before the messages of this request.
        before = b"" if history.after is None else resume[_CHAIN]
        marked, taught = self._marked(
            memory, before, learn=history.learn and not (repeated and history.after is not None)
        )
        chains = _chains(marked, before)
        turn = GenerateTurn(
            history.conversation,
            marked,
            history.sampling,
            learn=bool(taught),
            taught=taught,
            resume=chains[-1] + body + number,
        )
        if history.after is not None:
            return Plan(replace(turn, messages=merged(_spoken(marked))), request=request)
        return Plan(self._placed(memory, turn, chains, resume[_CHAIN]), request=request)

    def _marked(
        self, memory: SessionMemory, chain: bytes, *, learn: bool
    ) -> tuple[tuple[Message, ...], tuple[bytes, ...]]:
        """The messages, each with whether it teaches, and digests of those that do. `chain` is the
        digest of what users said before them."""
        history = self.history
        messages = history.messages
        replies = [at for at, each in enumerate(messages) if each.role == "assistant"]
        tail = replies[-1] + 1 if replies else 0
        known = set(memory.taught)
        marked, taught = [], []
        before: str | bytes = chain
        for at, message in enumerate(messages):
            teaches = False
            if message.role == "user":
                digest = _digest(8, history.conversation, before, message.content)
                # The digest of a message that followed on a turn, whose text was not sent again.
                followed = _digest(8, history.conversation, chain, message.content)
                teaches = learn and at >= tail and known.isdisjoint((digest, followed))
                before, chain = message.content, _chained(chain, message.content)
            if teaches:
                known.add(digest)
                taught.append(digest)
            marked.append(replace(message, learn=teaches))
        return tuple(marked), tuple(taught)

    def _placed(
        self, memory: SessionMemory, turn: GenerateTurn, chains: Sequence[bytes], known: bytes
    ) -> GenerateTurn:
        """The turn with the messages that the window needs: the rest, or enough to begin anew."""
        # All of them known means that the last one is to be answered again.
        if known in chains[:-1]:
            going_on = replace(
                turn, messages=merged(_behind(turn.messages, users=chains.index(known) + 1))
            )
            try:
                self.check(memory, going_on)
                return going_on
            except WindowOverflowError:
                pass  # a window that begins anew has more room
        messages = list(_with_one_system_message(turn.messages))
        system = [messages.pop(0)] if messages[0].role == "system" else []
        replies = [at for at, each in enumerate(messages) if each.role == "assistant"]
        end = replies[-1] + 1 if replies else 0
        start = self._first_that_fits(system, messages, end)
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
        self, system: Sequence[Message], messages: Sequence[Message], end: int
    ) -> int:
        """Index of the first message of a history, up to `end`, that leaves room for a reply."""
        reply = self.history.sampling.max_tokens or DEFAULT_MAX_TOKENS
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


def _with_one_system_message(messages: Sequence[Message]) -> tuple[Message, ...]:
    system = [replace(each, learn=False) for each in messages if each.role == "system"]
    found = (*merged(system), *merged([each for each in messages if each.role != "system"]))
    check_messages(found)
    return found


def _behind(messages: Sequence[Message], *, users: int) -> list[Message]:
    """The messages behind the user message of that number, but for its reply and system prompts:
    the window holds both, and a date in a prompt is no reason to read everything anew."""
    places = [at for at, each in enumerate(messages) if each.role == "user"]
    return _spoken(messages[places[users - 1] + 1 :])


def _spoken(messages: Sequence[Message]) -> list[Message]:
    """The messages that a window reads which holds those before them."""
    rest = [each for each in messages if each.role != "system"]
    while rest[0].role == "assistant":
        del rest[0]
    return rest


def _chains(messages: Sequence[Message], before: bytes) -> list[bytes]:
    """Digests of the texts of users behind those of the digest `before`: with the first, with the
    first two, and so on."""
    chains: list[bytes] = []
    for message in messages:
        if message.role == "user":
            before = _chained(before, message.content)
            chains.append(before)
    return chains


def _chained(before: bytes, text: str) -> bytes:
    return _digest(_PART_BYTES, before, text)


def _request_id(number: bytes, body: bytes) -> RequestId:
    return RequestId(f"http-{number.hex()}", hashlib.sha256(body).digest())


def _digest(size: int, *parts: str | bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=size)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()
