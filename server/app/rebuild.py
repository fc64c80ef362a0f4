"""Rebuilds: a session's log is folded again, without what is forgotten or under another policy.

Every record that counts is read again in order and learnt again at the same boundaries, so the
result is bit for bit the memory that the session would have had. Interruptions do not change it: an
interim memory is a memory like any other, and the fold resumes from it.

Knows the fold and its progress. Scheduling, watchers and cancellation are in jobs.py.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

from hope_runtime.errors import (
    CorruptStateError,
    InvalidRequestError,
    StateVersionError,
)
from hope_runtime.session.codec import changed_blobs, encode_memory
from hope_runtime.session.effective import effective
from hope_runtime.session.fold import due
from hope_runtime.session.log import Place, Record, RecordKind
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.policy import stored_policy
from server.app.cancellation import complete, result_of
from server.app.session_log import read_log
from server.app.sessions import Sessions
from server.store.base import (
    Commit,
    Head,
    Job,
    Lease,
    StoreFullError,
    StoreUnavailableError,
)
from server.store.base import Record as StoredRecord

_log = logging.getLogger(__name__)

_Fields = TypeVar("_Fields", "Ask", "Progress")


@dataclass(frozen=True, slots=True)
class Ask:
    """Request of a job: fold the whole log, or all of it but one document or some statements, under
    a policy. The digest tells whether the policy has changed since the job began."""

    policy: str
    policy_digest: str
    # Both empty: nothing is left out.
    document: str = ""
    statements: tuple[Place, ...] = ()

    @property
    def forgets(self) -> str:
        """Description of what is left out; "" when nothing is."""
        if self.document:
            return f"document '{self.document}'"
        count = len(self.statements)
        return f"{count} statement{'s' if count > 1 else ''}" if count else ""

    def encode(self) -> bytes:
        fields = asdict(self)
        if not self.statements:  # what older servers wrote, and read
            del fields["statements"]
        return json.dumps(fields).encode()

    @staticmethod
    def decode(data: bytes) -> Ask:
        ask = _decoded_fields(Ask, data)
        try:
            return replace(ask, statements=tuple(Place(*place) for place in ask.statements))
        except TypeError as error:
            raise _undecodable(error) from error

    def records(self) -> list[Record]:
        """Records that the job appends to the log: what says that something was left out."""
        if not self.forgets:
            return []
        record = Record(RecordKind.FORGET, document=self.document, places=self.statements)
        return [replace(record, time=int(time.time()))]


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a rebuild. `seconds` is the time spent on the part that was kept, on all servers;
    `log_seq` is the length of the log that is folded."""

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
        raise _undecodable(error) from error


def _undecodable(error: Exception) -> CorruptStateError:
    return CorruptStateError(
        f"the stored job cannot be decoded ({error}); cancel it and start it again"
    )


async def check_forget(sessions: Sessions, head: Head, document: str) -> Ask:
    """Job that forgets `document`. Raises InvalidRequestError when the session has not read it, and
    errors of a state that cannot be used."""
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
    return Ask(memory.policy.name, memory.policy.digest(), document)


async def check_migrate(sessions: Sessions, head: Head, policy: str) -> Ask:
    """Job that moves a session to `policy`; "" is its own policy as it is now. Raises
    FingerprintMismatchError for another base model: the log holds token ids of one tokenizer."""
    sessions.base.check(
        f"session {head.key}",
        head.fingerprint,
        "its log holds that model's token ids, so migrate it where that model is served",
    )
    name = policy or head.policy
    return Ask(name, sessions.policy(name).digest())


class Rebuild:
    """One fold of one session's log, under a lease that the caller renews."""

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
        """Fold the remaining records and commit the result, which ends the job."""
        sessions = self._sessions
        head = await sessions.store.head(self._lease.key)
        log = await read_log(sessions, self._lease.key)
        added = self._ask.records()
        records = await asyncio.to_thread(effective, [*log, *added])
        memory = await self._begin(await sessions.store.read_job(self._lease.key), records, log)
        for record in records[self._progress.folded_records :]:
            memory = await result_of(sessions.engine.observe(memory, record))
            memory = await self._learnt(memory, folded=1)
        return await complete(self._commit(head, memory, added))

    async def checkpoint(self) -> None:
        """Store the interim memory and the progress."""
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
        """The interim memory of the last checkpoint, else a fresh one, with everything learnt that
        is due."""
        sessions, ask = self._sessions, self._ask
        policy = stored_policy(sessions.policies, ask.policy, ask.policy_digest)
        if policy is None:
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
        """The memory with everything learnt that is due. `folded` is 1 if `memory` has observed a
        record that the progress does not count yet."""
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
            summary=await asyncio.to_thread(sessions.commits.summary, memory),
            put_blobs=blobs,
            drop_blobs=frozenset(head.blobs.keys() - blobs.keys()),
            records=[StoredRecord(record.kind, record.encode()) for record in records],
            fingerprint=memory.fingerprint,
            policy=memory.policy.name,
            ends_job=True,
        )
        commits, store = sessions.commits, sessions.store
        self.committed = await commits.retried(lambda: store.commit(self._lease, commit))
        await commits.collect(self._lease.key)
        return self.committed
