"""Ids of responses. One names the session, the conversation and the turn that it answers, so that
another request can follow on it without a table of responses.

The user comes from the credential, so an id that somebody made up names a session of their own, or
none at all.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from dataclasses import dataclass

from server.app.names import MAX_CONVERSATION_NAME, is_session_id

_PREFIX = "resp_"
_NUMBER_BYTES = 16
# Longer ones are not ours: a session's id and a conversation's name have 64 characters at most.
_MOST_CHARACTERS = 600


@dataclass(frozen=True, slots=True)
class ResponseId:
    """The turn of that `number` in a conversation of a session of the caller."""

    session: str
    conversation: str
    number: bytes

    def __str__(self) -> str:
        session, conversation = self.session.encode(), self.conversation.encode()
        return _encoded(self.number + bytes([len(session)]) + session + conversation)


def passing_id() -> str:
    """The id of a response that nothing is kept of."""
    return _encoded(secrets.token_bytes(_NUMBER_BYTES))


def parse_id(text: str) -> ResponseId | None:
    """The turn that an id names, None for ids that name none."""
    if not text.startswith(_PREFIX) or len(text) > _MOST_CHARACTERS:
        return None
    coded = text.removeprefix(_PREFIX)
    try:
        data = base64.b64decode(coded + "=" * (-len(coded) % 4), altchars=b"-_", validate=True)
        number, rest = data[:_NUMBER_BYTES], data[_NUMBER_BYTES:]
        size = rest[0] + 1 if rest else 0
        session, conversation = rest[1:size].decode(), rest[size:].decode()
    except (ValueError, binascii.Error):
        return None
    named = is_session_id(session) and 0 < len(conversation) <= MAX_CONVERSATION_NAME
    return ResponseId(session, conversation, number) if named else None


def _encoded(data: bytes) -> str:
    return _PREFIX + base64.urlsafe_b64encode(data).decode().rstrip("=")
