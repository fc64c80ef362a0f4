"""The header by which a proxy sends all calls about a session to the same server.

Any server can serve any session; the one that served it last has its memory and its window ready.
The header is a hint, never looked at by servers: names come from the requests.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import TYPE_CHECKING

from hope_client.names import ME

if TYPE_CHECKING:
    from google.protobuf.message import Message

SESSION_HEADER = "hope-session"
# What servers take as a name; anything else they refuse, wherever it goes.
_NAME = re.compile(r"users/(@me|[A-Za-z0-9_.%-]{1,768})/sessions/[A-Za-z0-9_.-]{1,64}")


def session_header(name: str, token: str = "") -> tuple[tuple[str, str], ...]:
    """The header of calls about the session of this name, or about something of it.

    `users/@me` is made a user's own by the token, so that not everybody's sessions of one name go
    to the same server."""
    match = _NAME.match(name)
    if not match:
        return ()
    where = match[0]
    if match[1] == ME:
        where = where.replace(ME, hashlib.sha256(_subject(token)).hexdigest()[:16], 1)
    return ((SESSION_HEADER, where),)


def _subject(token: str) -> bytes:
    """Identity that stays the same when a user's token is replaced; of no token that is read here
    is anything believed."""
    try:
        body = token.split(".")[1]
        subject = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))["sub"]
        return str(subject).encode()
    except (LookupError, TypeError, ValueError):
        return b""


def session_of(request: Message) -> str:
    """Name of the session that a request is about, or of something that it has; "" for none."""
    said = {field.name: value for field, value in request.ListFields()}
    parent = said.get("parent", "")
    # The last is one that is to be made.
    made = f"{parent}/sessions/{said['session_id']}" if "session_id" in said else parent
    return str(said.get("session") or said.get("name") or made)
