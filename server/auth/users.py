"""Ids of users: the subject of a credential as a part of resource names.

Identity providers write subjects as they like: `auth0|5f7c`, `ada@example.com`,
`system:serviceaccount:default:bot`. Every byte that has no place in a name stands as %XX, so the id
says the subject whole, no two subjects share an id, and a subject of plain characters is its own.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

# OpenID Connect gives a subject at most 255 ASCII characters.
MAX_SUBJECT_BYTES = 256
ME = "@me"
"""The caller, in the names of a request. Not an id: a subject '@me' is '%40me'."""

_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")
_ID = re.compile(r"(?:[A-Za-z0-9_.-]|%[0-9A-F]{2})+")


def user_id_of(subject: str) -> str:
    """The id of the user that a credential calls `subject`. Raises ValueError for a subject that
    is empty, too long or no Unicode text."""
    data = subject.encode()  # a lone surrogate raises UnicodeEncodeError, a ValueError
    if not 0 < len(data) <= MAX_SUBJECT_BYTES:
        raise ValueError(f"a subject must have 1 to {MAX_SUBJECT_BYTES} bytes, not {len(data)}")
    return "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in data)


def subject_of(user: str) -> str:
    """The subject whose id this is, the other way round. Raises ValueError for what is no id."""
    if not _ID.fullmatch(user):
        raise ValueError("the id of a user must consist of letters, digits, '_', '.', '-' and %XX")
    subject = unquote_to_bytes(user).decode()
    if user_id_of(subject) != user:
        raise ValueError("the id of a user must escape what needs escaping, and nothing else")
    return subject


def is_user_id(user: str) -> bool:
    """Whether a name may call a user so."""
    try:
        subject_of(user)
    except ValueError:
        return False
    return True
