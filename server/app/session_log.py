"""Reading a session's log, page by page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from hope_runtime.session.log import Record
from server.app.sessions import Sessions
from server.store.base import LogRecord, SessionKey

LOG_PAGE = 256


async def log_pages(
    sessions: Sessions, key: SessionKey, after_seq: int = 0
) -> AsyncIterator[list[LogRecord]]:
    """The records behind `after_seq` as they are stored, in order, up to LOG_PAGE at a time."""
    while True:
        page = await sessions.store.read_log(key, after_seq=after_seq, limit=LOG_PAGE)
        yield page
        if len(page) < LOG_PAGE:
            return
        after_seq = page[-1].seq


async def read_log(sessions: Sessions, key: SessionKey) -> list[Record]:
    """Every record of a session's log, in order."""
    records: list[Record] = []
    async for page in log_pages(sessions, key):
        records += await asyncio.to_thread(_decoded, page)
    return records


def _decoded(page: Sequence[LogRecord]) -> list[Record]:
    return [Record.decode(each.payload) for each in page]
