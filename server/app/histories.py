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

A request may name the turn that it follows on instead. Behind the conversation's newest one the
window goes on; behind an older one, or where the window is gone, it begins anew with what was said
up to that turn, which the log has (past_turns.py).

Knows no transport.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hope_runtime.engine.prompt import Message
from hope_runtime.engine.sampling import Sampling
from hope_runtime.engine.turn import GenerateTurn
from hope_runtime.session.memory import SessionMemory
from server.app.generation import Plan, Planner
from server.app.past_turns import BODY, CHAIN, NUMBER, PART_BYTES, Past, find_past
from server.app.placing import Placing, merged, spoken, with_one_system_message
from server.app.replies import RequestId
from server.app.sessions import Sessions
from server.store.base import SessionKey


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


class UnknownTurnError(Exception):
    """A turn cannot follow on one that does not count: it never was, or was taken back."""


def planner(sessions: Sessions, key: SessionKey, history: History) -> Planner:
    """The plan of the turn that answers `history`, made from the session's memory and, for one that
    follows on an older turn, from its log. It raises UnknownTurnError where that has no such
    turn, and WindowOverflowError."""
    planning = _Planning(history, Placing.of(sessions))

    async def plan(memory: SessionMemory) -> Plan:
        past = None
        if history.after is not None and planning.branches_off(memory):
            past = await find_past(sessions, key, history.conversation, history.after)
            if past is None:
                raise UnknownTurnError
        return await asyncio.to_thread(planning.plan, memory, past)

    return plan


def turn_number(turn: GenerateTurn) -> bytes:
    """The number of a planned turn, under which another one can follow on it. A repetition that
    gets the stored reply has the number of the first."""
    return turn.resume[NUMBER]


def whole(history: History) -> GenerateTurn:
    """The turn that reads all of a history and teaches nothing."""
    return GenerateTurn(
        history.conversation,
        with_one_system_message(history.messages),
        history.sampling,
        learn=False,
        fresh=True,
    )


@dataclass(frozen=True, slots=True)
class _Planning:
    history: History
    placing: Placing

    def branches_off(self, memory: SessionMemory) -> bool:
        """Whether the turn follows on another one than the newest that the window holds."""
        resume = self._resume(memory)
        return self.history.after != resume[NUMBER] and not self._repeats(resume)

    def plan(self, memory: SessionMemory, past: Past | None = None) -> Plan:
        """The turn, and the id under which its reply is stored. `past` is what was said before a
        turn that branches off."""
        history = self.history
        resume = self._resume(memory)
        repeated = self._repeats(resume)
        request = history.request
        if request is not None:
            # A repetition under the same id has the same number.
            number = _digest(PART_BYTES, request.id)
        else:
            # Its reply is stored, if it was committed; else it is answered under the same id.
            number = resume[NUMBER] if repeated else secrets.token_bytes(PART_BYTES)
            if repeated or history.may_retry:
                request = _request_id(number, history.body)
        # What was said before the messages of this request.
        before = b"" if history.after is None else past.chain if past else resume[CHAIN]
        marked, taught = self._marked(
            memory,
            before,
            (past and _last_of_user(past.messages)) or before,
            learn=history.learn and not (repeated and history.after is not None),
        )
        chains = _chains(marked, before)
        turn = GenerateTurn(
            history.conversation,
            marked,
            history.sampling,
            learn=bool(taught),
            taught=taught,
            resume=chains[-1] + _digest(PART_BYTES, history.body) + number,
        )
        if past is not None:
            seeded = replace(turn, messages=_seeded(past.messages, marked))
            turn = self.placing.anew(memory, seeded)
        elif history.after is not None:
            turn = replace(turn, messages=merged(spoken(marked)))
        else:
            known = resume[CHAIN]
            # All of them known means that the last one is to be answered again.
            users = chains.index(known) + 1 if known in chains[:-1] else 0
            turn = self.placing.placed(memory, turn, users)
        return Plan(turn, request=request)

    def _resume(self, memory: SessionMemory) -> bytes:
        known = memory.conversations.get(self.history.conversation)
        return known.resume if known else b""

    def _repeats(self, resume: bytes) -> bool:
        """Whether the request is the conversation's last one again."""
        history = self.history
        if resume[BODY] != _digest(PART_BYTES, history.body):
            return False
        if history.request is not None:
            return resume[NUMBER] == _digest(PART_BYTES, history.request.id)
        return history.retried

    def _marked(
        self, memory: SessionMemory, chain: bytes, said: str | bytes, *, learn: bool
    ) -> tuple[tuple[Message, ...], tuple[bytes, ...]]:
        """The messages, each with whether it teaches, and digests of those that do. `chain` is the
        digest of what users said before them, `said` the last of it, or that digest where the text
        is not known."""
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
                # It may have taught behind a turn whose text was not sent again, or behind that
                # text, as its client sent it then.
                digest, *others = (
                    _digest(8, history.conversation, each, message.content)
                    for each in (before, chain, said)
                )
                teaches = learn and at >= tail and known.isdisjoint((digest, *others))
                before = said = message.content
                chain = _chained(chain, message.content)
            if teaches:
                known.add(digest)
                taught.append(digest)
            marked.append(replace(message, learn=teaches))
        return tuple(marked), tuple(taught)


def _seeded(past: Sequence[Message], new: Sequence[Message]) -> tuple[Message, ...]:
    """The messages of a window that begins anew with what was said before. Another system prompt
    takes the place of the one before."""
    if any(each.role == "system" for each in new):
        past = [each for each in past if each.role != "system"]
    return (*past, *new)


def _last_of_user(messages: Sequence[Message]) -> str:
    return next((each.content for each in reversed(messages) if each.role == "user"), "")


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
    return _digest(PART_BYTES, before, text)


def _request_id(number: bytes, body: bytes) -> RequestId:
    return RequestId(f"http-{number.hex()}", hashlib.sha256(body).digest())


def _digest(size: int, *parts: str | bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=size)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()
