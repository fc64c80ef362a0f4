"""Events of a session as it changes: records of its log, and learning under way.

The log is read from the store, where whichever server holds the session appends to it, so a watcher
sees the same on every server and misses nothing: it goes on behind the last record that it saw.
Learning under way is known to the server that does it only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

from hope_runtime.errors import CorruptStateError
from hope_runtime.learning.figures import FIGURES, put
from hope_runtime.session.log import Record, Speaker
from hope_runtime.tokenizer import Tokenizer
from server.app.events import Learning
from server.app.session_log import log_pages
from server.app.sessions import Sessions
from server.store.base import Head, SessionKey

# Between two looks at the store: one row is read, and a person looks on.
LOOK_SECONDS = 0.25
# Records that a watcher without a place begins with.
RECENT_RECORDS = 200
MOST_CHARACTERS = 4000
# No character has more than four bytes, and no token stands for less than one.
_MOST_TOKENS = 4 * MOST_CHARACTERS


@dataclass(frozen=True, slots=True)
class Logged:
    """The record at place `seq` of the log."""

    seq: int
    record: Record


@dataclass(frozen=True, slots=True)
class Changed:
    """The session was committed; the last record that its log holds has been told."""

    head: Head


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing is being learnt any more."""


SessionEvent = Logged | Changed | Learning | Idle


@dataclass(frozen=True, slots=True)
class Said:
    """Text of one speaker in a record, cut after MOST_CHARACTERS."""

    speaker: Speaker
    text: str
    learnable: bool
    tokens: int


async def follow(
    sessions: Sessions, key: SessionKey, after_seq: int | None
) -> AsyncGenerator[SessionEvent, None]:
    """Tell a session's events from behind record `after_seq`, by default from RECENT_RECORDS before
    its last one, until the session is deleted or the server drains.

    Raises NotFoundError when there is no such session to begin with, and errors of the store.
    """
    head = await sessions.head(key)
    seq = max(0, head.log_seq - RECENT_RECORDS) if after_seq is None else after_seq
    etag, learning = "", None
    while not sessions.draining:
        if head.log_seq > seq:
            async for page in log_pages(sessions, key, seq):
                for each in page:
                    seq = each.seq
                    yield Logged(seq, await asyncio.to_thread(Record.decode, each.payload))
        if head.etag != etag:
            etag = head.etag
            yield Changed(head)
        entry = sessions.residency.entries.get(key)
        progress = entry.resident.progress if entry and entry.resident else None
        if progress != learning:
            learning = progress
            yield progress or Idle()
        await asyncio.sleep(LOOK_SECONDS)
        head = await sessions.head(key)


def said_in(record: Record, tokenizer: Tokenizer) -> list[Said]:
    """The texts of a record, without those of the template and the tokens that end replies."""

    def text_of(tokens: tuple[int, ...]) -> str:
        kept = [token for token in tokens[:_MOST_TOKENS] if token not in tokenizer.eos_ids]
        return tokenizer.decode(kept)[:MOST_CHARACTERS]

    return [
        Said(
            segment.speaker,
            text_of(segment.tokens),
            segment.learnable,
            len(segment.tokens),
        )
        for segment in record.segments
        if segment.speaker is not Speaker.TEMPLATE
    ]


def noted_figures(notes: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of a consolidation by the fields of the message hope.v1.Consolidation, from its notes
    in the log. Raises CorruptStateError for notes that no server wrote: an imported log may hold
    anything."""
    fields: dict[str, Any] = {}
    try:
        for figure in FIGURES:
            if figure.noted and (value := figure.noted_in(notes)) is not None:
                put(fields, figure.field, value)
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptStateError(
            f"the stored figures of a consolidation cannot be decoded: {error}"
        ) from error
    return fields
