"""The header by which a proxy sends all calls about a session to the same server.

Any server can serve any session; the one that served it last has its memory and its window ready.
The header is a hint, never looked at by servers: names come from the requests.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.protobuf.message import Message

SESSION_HEADER = "hope-session"
# What servers take as a name; anything else they refuse, wherever it goes.
_NAME = re.compile(r"users/[A-Za-z0-9_.-]{1,64}/sessions/[A-Za-z0-9_.-]{1,64}")


def session_header(name: str) -> tuple[tuple[str, str], ...]:
    """The header of calls about the session of this name, or about something of it."""
    match = _NAME.match(name)
    return ((SESSION_HEADER, match[0]),) if match else ()


def session_of(request: Message) -> str:
    """Name of the session that a request is about, or of something that it has; "" for none."""
    said = {field.name: value for field, value in request.ListFields()}
    parent = said.get("parent", "")
    # The last is one that is to be made.
    made = f"{parent}/sessions/{said['session_id']}" if "session_id" in said else parent
    return str(said.get("session") or said.get("name") or made)
