"""Resource names: users/{user}/sessions/{session}, checked where they enter.

A name of another user is answered like one that never existed, before anything is looked up, so
that neither the answer nor its time tells which names exist.
"""

from __future__ import annotations

import re
import secrets

from hope_runtime.errors import InvalidRequestError
from server.auth.caller import USER_ID as _ID
from server.auth.caller import present_caller
from server.store.base import NotFoundError, SessionKey

MAX_CONVERSATION_NAME = 64
MAX_DOCUMENT_NAME = 256
_SESSION = re.compile(r"users/([^/]*)/sessions/([^/]*)")
_SNAPSHOT = re.compile(r"(.*)/snapshots/([^/]*)")
_USER = re.compile(r"users/([^/]*)")


def session_key(name: str, *, field: str) -> SessionKey:
    """Key of a session's full name. Raises InvalidRequestError naming `field`, and NotFoundError
    for a session of another user."""
    match = _SESSION.fullmatch(name)
    if not match or not all(_ID.fullmatch(part) for part in match.groups()):
        raise InvalidRequestError(
            f"{name[:80]!r} is not a session name; the form is users/USER/sessions/SESSION, "
            "where each id has up to 64 letters, digits, '-', '_' or '.'",
            field=field,
        )
    key = SessionKey(*match.groups())
    if not present_caller().may_be(key.user):
        raise NotFoundError(f"session {key} does not exist")
    return key


def snapshot_key(name: str, *, field: str) -> tuple[SessionKey, str]:
    """Session and last part of a snapshot's full name. Raises as `session_key` does."""
    match = _SNAPSHOT.fullmatch(name)
    if not match or not _ID.fullmatch(match[2]):
        raise InvalidRequestError(
            f"{name[:80]!r} is not a snapshot name; the form is "
            "users/USER/sessions/SESSION/snapshots/SNAPSHOT",
            field=field,
        )
    return session_key(match[1], field=field), match[2]


def user_id(parent: str, *, field: str) -> str:
    """User of users/{user}. Raises InvalidRequestError naming `field`, and NotFoundError for any
    user but the caller."""
    match = _USER.fullmatch(parent)
    if not match or not _ID.fullmatch(match[1]):
        raise InvalidRequestError(
            f"{parent[:80]!r} is not a user name; the form is users/USER", field=field
        )
    if not present_caller().may_be(match[1]):
        raise NotFoundError(f"user {parent} does not exist")
    return match[1]


def session_id(chosen: str, *, field: str) -> str:
    """The chosen last part of a name, or a random one when empty."""
    if not chosen:
        return secrets.token_hex(8)
    if not _ID.fullmatch(chosen):
        raise InvalidRequestError(
            f"{chosen[:80]!r} is not a valid session id; use up to 64 letters, digits, '-', '_' "
            "or '.'",
            field=field,
        )
    return chosen


def conversation_name(chosen: str) -> str:
    """A conversation's name, "default" when empty. Raises InvalidRequestError."""
    return short_name(chosen, "default", MAX_CONVERSATION_NAME, field="conversation")


def short_name(value: str, default: str, limit: int, *, field: str) -> str:
    """A conversation's or document's name: `default` when empty, at most `limit` characters."""
    name = value or default
    if not name or len(name) > limit:
        raise InvalidRequestError(f"{field} must have 1 to {limit} characters", field=field)
    return name
