"""Resource names: users/{user}/sessions/{session}, checked where they enter."""

from __future__ import annotations

import re
import secrets

from hope_runtime.errors import InvalidRequestError
from server.store.base import SessionKey

_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_SESSION = re.compile(r"users/([^/]*)/sessions/([^/]*)")
_SNAPSHOT = re.compile(r"(.*)/snapshots/([^/]*)")
_USER = re.compile(r"users/([^/]*)")


def session_key(name: str, *, field: str) -> SessionKey:
    """Key of a session's full name. Raises InvalidRequestError naming `field`."""
    match = _SESSION.fullmatch(name)
    if not match or not all(_ID.fullmatch(part) for part in match.groups()):
        raise InvalidRequestError(
            f"{name[:80]!r} is no session; the form is users/USER/sessions/SESSION "
            "with up to 64 letters, digits, '-', '_' or '.' each.",
            field=field,
        )
    return SessionKey(*match.groups())


def snapshot_key(name: str, *, field: str) -> tuple[SessionKey, str]:
    """Session and last part of a snapshot's full name. Raises InvalidRequestError."""
    match = _SNAPSHOT.fullmatch(name)
    if not match or not _ID.fullmatch(match[2]):
        raise InvalidRequestError(
            f"{name[:80]!r} is no snapshot; the form is "
            "users/USER/sessions/SESSION/snapshots/SNAPSHOT.",
            field=field,
        )
    return session_key(match[1], field=field), match[2]


def user_id(parent: str, *, field: str) -> str:
    """User of users/{user}. Raises InvalidRequestError naming `field`."""
    match = _USER.fullmatch(parent)
    if not match or not _ID.fullmatch(match[1]):
        raise InvalidRequestError(
            f"{parent[:80]!r} is no user; the form is users/USER.", field=field
        )
    return match[1]


def session_id(chosen: str, *, field: str) -> str:
    """The chosen last part of a name, or a random one when empty."""
    if not chosen:
        return secrets.token_hex(8)
    if not _ID.fullmatch(chosen):
        raise InvalidRequestError(
            f"{chosen[:80]!r} is no session id; use up to 64 letters, digits, '-', '_' or '.'.",
            field=field,
        )
    return chosen


def short_name(value: str, default: str, limit: int, *, field: str) -> str:
    """A conversation's or document's name: `default` when empty, at most `limit` characters."""
    name = value or default
    if not name or len(name) > limit:
        raise InvalidRequestError(f"{field} must have 1 to {limit} characters.", field=field)
    return name
