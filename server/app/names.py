"""Resource names: users/{user}/sessions/{session}, checked where they enter.

`users/@me` stands for the caller, so that nobody needs to know how a credential's name is written
as an id (auth/users.py).

A name of another user is answered like one that never existed, before anything is looked up, so
that neither the answer nor its time tells which names exist.
"""

from __future__ import annotations

import re
import secrets

from hope_runtime.errors import InvalidRequestError
from server.auth.caller import present_caller
from server.auth.users import ME, is_user_id
from server.store.base import NotFoundError, SessionKey

MAX_CONVERSATION_NAME = 64
MAX_DOCUMENT_NAME = 256
_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_SESSION = re.compile(r"users/([^/]*)/sessions/([^/]*)")
_SNAPSHOT = re.compile(r"(.*)/snapshots/([^/]*)")
_USER = re.compile(r"users/([^/]*)")


def session_key(name: str, *, field: str) -> SessionKey:
    """Key of a session's full name. Raises InvalidRequestError naming `field`, and NotFoundError
    for a session of another user."""
    match = _SESSION.fullmatch(name)
    user = _known_user(match[1], field=field) if match else ""
    if not match or not is_user_id(user) or not _ID.fullmatch(match[2]):
        raise InvalidRequestError(
            f"{name[:80]!r} is not a session name; the form is users/USER/sessions/SESSION, "
            "where SESSION has up to 64 letters, digits, '-', '_' or '.', and USER has %XX for "
            "every other byte",
            field=field,
        )
    key = SessionKey(user, match[2])
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
    user = _known_user(match[1], field=field) if match else ""
    if not is_user_id(user):
        raise InvalidRequestError(
            f"{parent[:80]!r} is not a user name; the form is users/USER", field=field
        )
    if not present_caller().may_be(user):
        raise NotFoundError(f"user {parent} does not exist")
    return user


def own_name(name: str) -> str:
    """A full name with the caller's id in place of `@me`; unchanged when no caller is known."""
    try:
        caller = present_caller().user
    except LookupError:  # refused before the caller was known
        caller = None
    mine = f"users/{ME}/"
    if caller is None or not name.startswith(mine):
        return name
    return f"users/{caller}/{name.removeprefix(mine)}"


def _known_user(user: str, *, field: str) -> str:
    """The user's id, the caller's own for `@me`. Raises InvalidRequestError when there is none."""
    if user != ME:
        return user
    caller = present_caller().user
    if caller is None:
        raise InvalidRequestError(
            f"users/{ME} has no meaning on a server without authentication; name the user, and "
            "send no token",
            field=field,
        )
    return caller


def is_session_id(name: str) -> bool:
    """Whether the last part of a session's name may be so."""
    return bool(_ID.fullmatch(name))


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
