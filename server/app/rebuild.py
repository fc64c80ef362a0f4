"""Folding a session's log again: how a document is forgotten, and how a policy changes.

Everything that counts is read again in its order and learnt again at the same boundaries, so the
result is what the session would have become, to the last bit, however often the work was
interrupted: an interim memory is a memory like any other, and goes on from where it was.

Knows what is folded and how far it is. When it runs, who watches, and how it ends is jobs.py's
business.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

from hope_runtime.errors import (
    CorruptStateError,
    FingerprintMismatchError,
    InvalidRequestError,
    StateVersionError,
)
from hope_runtime.session.codec import changed_blobs, encode_memory
from hope_runtime.session.fold import due, effective
from hope_runtime.session.log import Record, RecordKind
from hope_runtime.session.memory import SessionMemory
from server.app.cancellation import complete, result_of
from server.app.sessions import Sessions
from server.store.base import (
    Commit,
    Head,
    Job,
    Lease,
    LogRecord,
    SessionKey,
    StoreFullError,
    StoreUnavailableError,
)
from server.store.base import Record as StoredRecord

_log = logging.getLogger(__name__)

LOG_PAGE = 256
_Fields = TypeVar("_Fields", "Ask", "Progress")


@dataclass(frozen=True, slots=True)
class Ask:
    """What is folded: the whole log, or all of it but one document, under a policy as it was known
    when the job began."""

    policy: str
    policy_digest: str
    # Empty: nothing is left out.
    document: str = ""

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @staticmethod
    def decode(data: bytes) -> Ask:
        return _decoded_fields(Ask, data)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a fold is. `seconds` are those spent on what is kept of it, on every server;
    `log_seq` is the length of the log that it folds."""

    folded_records: int = 0
    total_records: int = 0
    learnt_tokens: int = 0
    total_tokens: int = 0
    consolidations: int = 0
    seconds: float = 0.0
    log_seq: int = 0

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @staticmethod
    def decode(data: bytes) -> Progress:
        return _decoded_fields(Progress, data)


def _decoded_fields(kind: type[_Fields], data: bytes) -> _Fields:
    try:
        return kind(**json.loads(data))
    except (ValueError, TypeError) as error:
        raise CorruptStateError(
            f"the stored job cannot be decoded ({error}); cancel it and start it again"
        ) from error


async def check_forget(sessions: Sessions, head: Head, document: str) -> Ask:
    """What forgetting `document` asks for. Raises InvalidRequestError when it was not read, or why
    the session cannot be used as it is."""
    memory = sessions.decode(await sessions.store.read_blobs(head.key))
    log = await read_log(sessions, head.key)
    # What a rollback took back, or was forgotten before, does not count any more.
    if not document or not any(
        record.kind is RecordKind.DOCUMENT and record.document == document
        for record in effective(log)
    ):
        raise InvalidRequestError(
            f"the session has not read a document named '{document}'", field="document"
        )
    return Ask(head.policy, memory.policy.digest(), document)


async def check_migrate(sessions: Sessions, head: Head, policy: str) -> Ask:
    """What moving to `policy` asks for; empty is the session's own as it is now. Other base models
    are refused: the log holds token ids of one tokenizer."""
    if head.fingerprint != sessions.fingerprint:
        raise FingerprintMismatchError(
            f"session {head.key} was learnt on another base model ({head.fingerprint[:12]}), and "
            "its log holds that model's token ids; it can only be migrated on that model"
        )
    name = policy or head.policy
    return Ask(name, sessions.policy(name).digest())


class Refold:
    """One fold of one session's log, under a lease that somebody else keeps."""

    def __init__(
        self,
        sessions: Sessions,
        lease: Lease,
        ask: Ask,
        *,
        checkpoint_seconds: float,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._sessions = sessions
        self._lease = lease
        self._ask = ask
        self._checkpoint_seconds = checkpoint_seconds
        self._on_progress = on_progress
        self._progress = Progress()
        self._memory: SessionMemory | None = None
        # What the job's blobs in the store hold, and names of blobs that belong to nothing.
        self._saved: SessionMemory | None = None
        self._stale: frozenset[str] = frozenset()
        self._saved_at = self._ticked_at = time.monotonic()
        # Set once the result is the session's state.
        self.committed: Head | None = None

    async def run(self) -> Head:
        """Folds what is left and commits the result, which ends the job."""
        sessions = self._sessions
        head = await sessions.store.head(self._lease.key)
        log = await read_log(sessions, self._lease.key)
        added = [Record(RecordKind.FORGET, document=self._ask.document)]
        added = added if self._ask.document else []
        records = await asyncio.to_thread(effective, [*log, *added])
        memory = await self._begin(await sessions.store.read_job(self._lease.key), records, log)
        for record in records[self._progress.folded_records :]:
            memory = await result_of(sessions.engine.observe(memory, record))
            memory = await self._learnt(memory, folded=1)
        return await complete(self._commit(head, memory, added))

    async def checkpoint(self) -> None:
        """Makes durable what has been folded so far."""
        if self.committed or self._memory is None or self._memory is self._saved:
            return
        assert self._saved is not None
        blobs, gone = await asyncio.to_thread(changed_blobs, self._saved, self._memory)
        await self._sessions.store.save_job(
            self._lease,
            request=self._ask.encode(),
            progress=self._progress.encode(),
            put_blobs=blobs,
            drop_blobs=gone | (self._stale - blobs.keys()),
        )
        self._saved, self._stale = self._memory, frozenset()
        self._saved_at = time.monotonic()

    async def _begin(
        self, saved: tuple[Job, dict[str, bytes]], records: list[Record], log: list[Record]
    ) -> SessionMemory:
        """The interim memory that was saved last, else a fresh one; what it owes is learnt."""
        sessions, ask = self._sessions, self._ask
        policy = sessions.policy(ask.policy)
        if policy.digest() != ask.policy_digest:
            raise StateVersionError(
                f"policy '{ask.policy}' changed after the job was started; cancel the job and "
                "start it again"
            )
        memory = SessionMemory.fresh(sessions.fingerprint, policy)
        job, blobs = saved
        progress = Progress.decode(job.progress)
        if blobs and progress.log_seq == len(log):
            memory = await asyncio.to_thread(sessions.decode, blobs)
        else:
            # Nothing was saved, or the log is not the one it was made from.
            self._stale = frozenset(blobs)
            progress = Progress(
                total_records=len(records),
                total_tokens=sum(record.learnable_tokens for record in records),
                log_seq=len(log),
            )
        self._saved, self._progress = memory, progress
        return await self._learnt(memory, folded=0)

    async def _learnt(self, memory: SessionMemory, folded: int) -> SessionMemory:
        """The memory with everything learnt that is due. `memory` has observed a record more than
        the progress tells if `folded` is 1."""
        self._advance(memory, folded=folded)
        while (boundary := due(memory)) is not None:
            memory, _ = await result_of(self._sessions.engine.consolidate(memory, boundary))
            self._advance(memory, consolidations=1)
            if time.monotonic() - self._saved_at >= self._checkpoint_seconds:
                await self._try_checkpoint()
        await asyncio.sleep(0)  # a row of records without a boundary must not hold up the loop
        return memory

    async def _try_checkpoint(self) -> None:
        try:
            await self.checkpoint()
        except (StoreFullError, StoreUnavailableError) as error:
            _log.warning("could not save the progress of a job, which continues: %s", error)
            self._saved_at = time.monotonic()

    def _advance(self, memory: SessionMemory, folded: int = 0, consolidations: int = 0) -> None:
        now = time.monotonic()
        self._memory = memory
        self._progress = replace(
            self._progress,
            folded_records=self._progress.folded_records + folded,
            learnt_tokens=memory.observed_tokens - memory.pending_tokens,
            consolidations=self._progress.consolidations + consolidations,
            seconds=self._progress.seconds + now - self._ticked_at,
        )
        self._ticked_at = now
        self._on_progress(self._progress)

    async def _commit(self, head: Head, memory: SessionMemory, records: list[Record]) -> Head:
        sessions = self._sessions
        blobs = await asyncio.to_thread(encode_memory, memory)
        commit = Commit(
            expected_revision=head.revision,
            nonce=uuid.uuid4().hex,
            version=head.version + 1,
            summary=await asyncio.to_thread(sessions.summary, memory),
            put_blobs=blobs,
            drop_blobs=frozenset(head.blobs.keys() - blobs.keys()),
            records=[StoredRecord(record.kind, record.encode()) for record in records],
            policy=self._ask.policy,
            ends_job=True,
        )
        self.committed = await sessions.retried(lambda: sessions.store.commit(self._lease, commit))
        await sessions.collect(self._lease.key)
        return self.committed


async def read_log(sessions: Sessions, key: SessionKey) -> list[Record]:
    """Every record of a session's log, in order."""
    records: list[Record] = []
    while True:
        page = await sessions.store.read_log(key, after_seq=len(records), limit=LOG_PAGE)
        records += await asyncio.to_thread(_decoded, page)
        if len(page) < LOG_PAGE:
            return records


def _decoded(page: Sequence[LogRecord]) -> list[Record]:
    return [Record.decode(each.payload) for each in page]
