"""Folding a session's log again: how a document is forgotten, and how a policy changes.

Everything that counts is read again in its order and learnt again at the same boundaries, so the
result is what the session would have become. It takes as long as learning all of it did; the
session takes no turns meanwhile, and until the end nothing is written.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence

from hope_runtime.codec import encode_memory
from hope_runtime.errors import FingerprintMismatchError, InvalidRequestError
from hope_runtime.fold import due, effective, observe
from hope_runtime.log import Record, RecordKind
from hope_runtime.memory.state import SessionMemory
from server.sessions import Sessions
from server.store.base import Commit, Head, SessionKey
from server.summary import encode_summary
from server.waiting import complete, result_of

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


async def migrate(sessions: Sessions, key: SessionKey, policy: str) -> Head:
    """The session as it would be had it learnt under `policy` from the beginning; empty is its own
    policy as it is now. Other base models are refused: the log holds token ids of one tokenizer."""
    store = sessions.store
    async with sessions.unloaded(key) as lease:
        head = await store.head(key)
        if head.fingerprint != sessions.fingerprint:
            raise FingerprintMismatchError(
                f"{key} was learnt on another base model ({head.fingerprint[:12]}), whose tokens "
                "its log holds; it cannot be migrated to this one."
            )
        name = policy or head.policy
        memory = SessionMemory.fresh(sessions.fingerprint, sessions.policy(name))
        memory = await _folded(sessions, memory, effective(await _read_log(sessions, key)))
        blobs = await asyncio.to_thread(encode_memory, memory)
        commit = Commit(
            expected_revision=head.revision,
            nonce=uuid.uuid4().hex,
            version=head.version + 1,
            summary=encode_summary(memory, sessions.base_norm),
            put_blobs=blobs,
            drop_blobs=frozenset(head.blobs.keys() - blobs.keys()),
            policy=name,
        )
        return await complete(sessions.retried(lambda: store.commit(lease, commit)))


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
