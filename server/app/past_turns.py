"""Past turns: what a conversation's window held behind one of its turns, read from the log.

A turn of a client that names the turn it follows on, or sends its whole history, has a number in
its record (`Record.resume`). Turns that were taken back, and those from a forgotten statement on,
count no longer and are not found.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from hope_runtime.engine.prompt import Message
from hope_runtime.session.effective import effective
from hope_runtime.session.log import Record, RecordKind, Speaker
from hope_runtime.session.memory import MAX_CONVERSATIONS
from hope_runtime.tokenizer import Tokenizer
from server.app.session_log import read_log
from server.app.sessions import Sessions
from server.store.base import SessionKey

# Parts of Record.resume: a digest of what the users had said, one of the request, and the number.
CHAIN, BODY, NUMBER = slice(0, 16), slice(16, 32), slice(32, 48)
PART_BYTES = 16
_ROLES = {Speaker.SYSTEM: "system", Speaker.USER: "user", Speaker.ASSISTANT: "assistant"}


@dataclass(frozen=True, slots=True)
class Past:
    """History behind a turn: the `messages` that its window held, which teach nothing, and its
    `chain`, the digest of what the conversation's users had said."""

    messages: tuple[Message, ...]
    chain: bytes


async def find_past(
    sessions: Sessions, key: SessionKey, conversation: str, number: bytes
) -> Past | None:
    """The history behind the turn of that `number`; None when no turn that counts has it. Reads the
    whole log, and needs no lock: a log only grows."""
    log = await read_log(sessions, key)
    return await asyncio.to_thread(_find, log, sessions.tokenizer, conversation, number)


def _find(
    log: Sequence[Record], tokenizer: Tokenizer, conversation: str, number: bytes
) -> Past | None:
    # As the fold keeps windows (fold.py), most recently used last, with records for their tokens.
    windows: dict[str, list[Record]] = {}
    for record in effective(log):
        name = record.conversation
        if record.kind in (RecordKind.TURN, RecordKind.DOCUMENT):
            before = windows.pop(name, [])
            windows[name] = [record] if record.fresh else [*before, record]
            if len(windows) > MAX_CONVERSATIONS:
                del windows[next(iter(windows))]
        elif record.kind is RecordKind.END_CONVERSATION:
            windows.pop(name, None)
        elif record.kind is RecordKind.FORGET and record.places:
            windows.clear()
        if name == conversation and record.resume[NUMBER] == number:
            turns = (each for each in windows[name] if each.kind is RecordKind.TURN)
            return Past(tuple(_messages(turns, tokenizer)), record.resume[CHAIN])
    return None


def _messages(turns: Iterable[Record], tokenizer: Tokenizer) -> Iterator[Message]:
    for turn in turns:
        for segment in turn.segments:
            role = _ROLES.get(segment.speaker)
            # A reply ends with the token that closes it.
            ids = [id_ for id_ in segment.tokens if id_ not in tokenizer.eos_ids]
            if role is not None and (text := tokenizer.decode(ids)).strip():
                yield Message(role, text, learn=False)
