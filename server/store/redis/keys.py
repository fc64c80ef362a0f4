"""Names of keys.

All keys of a user carry one hash tag, so that they lie in one slot of a Redis Cluster and one
script may touch them together. Names are quoted: whatever a user is called, it cannot end its tag.

    hope:{user}:names            sorted set   names of sessions, for paging
    hope:{user}:sizes            hash         bytes of each referenced blob and of each log
    hope:{user}:bucket           hash         what the user may still use of a rate, for a while
    hope:{user}:head:session     hash         the record of a session (record.py)
    hope:{user}:log:session      list         its log
    hope:{user}:replies:session  hash         its replies, and when they expire:
    hope:{user}:expiry:session   sorted set
    hope:{user}:holders:digest   set          sessions that refer to a blob
    hope:{user}:chunk:digest:n   string       a piece of a blob
    hope:{user}:done:operation   string       an operation or draw that was applied, for a while
    hope:format, hope:number, hope:jobs       what all users share
    hope:writable                string       nothing, for a second: whether writes are taken
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote, unquote

from server.store.values import BlobRef

# Part of the format: a blob's pieces are found by it. Redis moves values of about 4 MB fastest.
CHUNK_BYTES = 4 << 20

FORMAT = "hope:format"
NUMBER = "hope:number"
JOBS = "hope:jobs"
WRITABLE = "hope:writable"
OF_ANY_USER = "hope:{*"

_KEY = re.compile(r"hope:\{([^}]*)\}:(\w+)(?::(.*))?")


class KeyParts(NamedTuple):
    """Subject of a key: user, session or part of one."""

    user: str
    kind: str
    rest: str
    """A session's name, a digest, a digest and a number, an operation, or nothing."""


class UserKeys:
    """The keys of one user."""

    def __init__(self, user: str) -> None:
        self._prefix = f"hope:{{{quote(user, safe='')}}}"
        self.names = f"{self._prefix}:names"
        self.sizes = f"{self._prefix}:sizes"
        self.bucket = f"{self._prefix}:bucket"

    def head(self, session: str) -> str:
        return self._of("head", session)

    def log(self, session: str) -> str:
        return self._of("log", session)

    def replies(self, session: str) -> str:
        return self._of("replies", session)

    def expiry(self, session: str) -> str:
        return self._of("expiry", session)

    def holders(self, digest: str) -> str:
        return self._of("holders", digest)

    def done(self, operation: str) -> str:
        return self._of("done", operation)

    def chunks(self, ref: BlobRef) -> list[str]:
        """An empty blob has one empty piece, so that it can be seen to be there."""
        count = max(1, -(-ref.size_bytes // CHUNK_BYTES))
        return [self.chunk(f"{ref.digest}:{number}") for number in range(count)]

    def chunk(self, piece: str) -> str:
        """Key of a piece by its digest and number."""
        return f"{self._prefix}:chunk:{piece}"

    def piece(self, chunk: str) -> str:
        """The other way round."""
        return chunk.removeprefix(f"{self._prefix}:chunk:")

    def _of(self, kind: str, name: str) -> str:
        return f"{self._prefix}:{kind}:{quote(name, safe='')}"


def blob_field(digest: str) -> str:
    """Field of a blob in `sizes`."""
    return f"blob:{digest}"


def log_field(session: str) -> str:
    """Field of a session's log in `sizes`."""
    return f"log:{session}"


def parse(key: bytes) -> KeyParts | None:
    """Subject of a user's key; None for other keys."""
    match = _KEY.fullmatch(key.decode(errors="replace"))
    if match is None:
        return None
    user, kind, rest = match.groups()
    return KeyParts(unquote(user), kind, rest if kind == "chunk" else unquote(rest or ""))
