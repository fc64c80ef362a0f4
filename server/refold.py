"""Folding a session's log again: how a document is forgotten.

Everything that counts is read again in its order and learnt again at the same boundaries, so the
result is what the session would have become. It takes as long as learning all of it did; the
session takes no turns meanwhile, and until the end nothing is written.
"""

from __future__ import annotations

from collections.abc import Sequence

from hope_runtime.errors import InvalidRequestError
from hope_runtime.fold import due, effective, observe
from hope_runtime.log import Record, RecordKind
from hope_runtime.memory.state import SessionMemory
from server.sessions import Sessions
from server.store.base import Head, SessionKey
from server.waiting import result_of

LOG_PAGE = 256


async def forget_document(sessions: Sessions, key: SessionKey, document: str) -> Head:
    """The session as if it had never read the document. Its name can be used again."""
    async with sessions.exclusive(key) as resident:
        log = await _read_log(sessions, key)
        # What a rollback took back, or was forgotten before, does not count any more.
        if not any(
            record.kind is RecordKind.DOCUMENT and record.document == document
            for record in effective(log)
        ):
            raise InvalidRequestError(
                f"The session has read no document '{document}'.", field="document"
            )
        record = Record(RecordKind.FORGET, document=document)
        memory = SessionMemory.fresh(sessions.fingerprint, resident.memory.policy)
        memory = await _folded(sessions, memory, effective([*log, record]))
        for name in resident.memory.conversations:
            sessions.engine.arena.drop((key, name))
        await sessions.commit_memory(resident, memory, record)
        return resident.head


async def _folded(
    sessions: Sessions, memory: SessionMemory, records: Sequence[Record]
) -> SessionMemory:
    for record in records:
        memory = observe(memory, record, window_tokens=sessions.engine.window_tokens)
        while (boundary := due(memory)) is not None:
            memory, _ = await result_of(sessions.engine.consolidate(memory, boundary))
    return memory


async def _read_log(sessions: Sessions, key: SessionKey) -> list[Record]:
    records: list[Record] = []
    while True:
        page = await sessions.store.read_log(key, after_seq=len(records), limit=LOG_PAGE)
        records += [Record.decode(each.payload) for each in page]
        if len(page) < LOG_PAGE:
            return records
