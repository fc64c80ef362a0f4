"""API keys: the users of static keys, for clients that hold one key for ever.

A file has a line for each key: its SHA-256 in hexadecimal and its user, named as a token would
(users.py), apart by a space; `#` begins a comment. The server never knows the keys themselves. Keys
are read once: a changed file needs a restart. Make one with

    key=$(openssl rand -hex 24); echo "$(printf %s "$key" | sha256sum | cut -d' ' -f1) ada"
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from server.auth.users import user_id_of
from server.crypto.files import KeyFileError, read_key_file

_DIGEST = re.compile(r"[0-9a-f]{64}")


def read_api_keys(path: Path) -> Mapping[str, str]:
    """Users by the digests of their keys. Raises KeyFileError."""
    users: dict[str, str] = {}
    text = read_key_file(path).decode(errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        parts = line.partition("#")[0].split()
        if not parts:
            continue
        try:
            digest, subject = parts
            user = user_id_of(subject)
        except ValueError:
            digest = user = ""
        if not _DIGEST.fullmatch(digest):
            raise KeyFileError(
                f"line {number} of {path} must be the SHA-256 of a key and the name of a user"
            )
        if users.setdefault(digest, user) != user:
            raise KeyFileError(f"line {number} of {path} gives a key to a second user")
    if not users:
        raise KeyFileError(f"{path} has no keys")
    return users


def user_of(users: Mapping[str, str], key: str) -> str | None:
    """The user of a key, if there is one. Only digests are compared, so the time that this takes
    tells nothing of a key."""
    return users.get(hashlib.sha256(key.encode()).hexdigest())
