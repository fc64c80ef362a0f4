"""State of documents: how far each was read, and whether what comes next belongs to it.

Knows bytes and digests; reading and learning are in ingest.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from hope_runtime.errors import InvalidRequestError
from hope_runtime.session import content
from hope_runtime.session.memory import Document
from server.app.events import Tell
from server.app.sessions import Sessions
from server.store.base import SessionKey


class DocumentDiffersError(InvalidRequestError):
    """A document of this name was read, at least its beginning, and it is another one."""


async def open_document(
    sessions: Sessions,
    key: SessionKey,
    name: str,
    offset: int,
    content_digest: bytes,
    tell: Tell,
) -> Document:
    """The document's state, checked to be where the caller resumes."""
    # Learning under way changes nothing of documents.
    async with sessions.exclusive(key, tell, learning_wait_seconds=0) as resident:
        known = resident.memory.documents.get(name, Document())
    if known.ended:
        raise InvalidRequestError(
            f"document '{name}' was already read to its end; use another name",
            field="start.document",
        )
    if offset != known.committed_bytes:
        raise InvalidRequestError(
            f"document '{name}' is committed up to byte {known.committed_bytes}; resume there "
            f"instead of at byte {offset}",
            field="start.offset_bytes",
        )
    if content_digest and known.digest not in (b"", content_digest):
        raise DocumentDiffersError(
            f"another document '{name}' was read up to byte {known.committed_bytes}; use another "
            "name, or forget that document first",
            field="start.content_digest",
        )
    return known


def check_whole(name: str, known: Document, following: bytearray, content_digest: bytes) -> None:
    """Raises DocumentDiffersError unless `following`, behind what `known` counts, makes the
    document that has this digest."""
    found = digested(known, following, True)
    if content_digest and found and found != content_digest:
        raise DocumentDiffersError(
            f"document '{name}' changed while it was read; {known.committed_bytes} bytes of its "
            "former text are committed; forget it and read it again",
            field="end.content_digest",
        )


def advanced(known: Document, committed: int, following: bytearray) -> Document:
    """`known` when the spans before byte `committed` have been read; `following` are the bytes
    behind those that it counts.

    A tail may hold more than its first span, such as the space behind a sentence; bytes that were
    reported as committed stay so.
    """
    if committed >= known.committed_bytes:
        taken = following[: committed - known.committed_bytes]
        return Document(committed, content=digested(known, taken, False))
    rest = known.tail[committed - known.committed_bytes :]
    return Document(known.committed_bytes, rest, content=known.content)


def digested(known: Document, following: bytes | bytearray, ended: bool) -> bytes:
    """Document.content when `following` has been read behind `known`."""
    if not known.content and known.committed_bytes:
        return b""  # begun when nothing was digested
    state = content.extend(known.content or content.EMPTY, bytes(following))
    return content.digest(state) if ended else state


def dropped(before: Mapping[str, object], after: Mapping[str, object]) -> str:
    """The name that is gone, of a mapping that lets go of one when it takes another in."""
    return next((name for name in before if name not in after), "")
