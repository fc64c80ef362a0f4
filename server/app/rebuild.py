"""Rebuilds: a session's log is folded again, without what is forgotten or under another policy.

Every record that counts is read again in order and learnt again at the same boundaries, so the
result is bit for bit the memory that the session would have had. Interruptions do not change it: an
interim memory is a memory like any other, and the fold resumes from it. So is a kept version: where
what is forgotten came after it, the fold begins there.

Knows the fold and its progress. Scheduling, watchers and cancellation are in jobs.py.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import replace

from hope_runtime.errors import InvalidRequestError, StateError, StateVersionError
from hope_runtime.session.codec import changed_blobs, encode_memory
from hope_runtime.session.effective import effective
from hope_runtime.session.fold import due
from hope_runtime.session.log import Record, RecordKind
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.policy import stored_policy
from server.app.cancellation import complete, result_of
from server.app.job_state import Ask, Progress
from server.app.session_log import read_log
from server.app.sessions import Sessions
from server.store.base import (
    Commit,
    CorruptBlobError,
    Head,
    Job,
    Lease,
    StoreFullError,
    StoreUnavailableError,
)
from server.store.base import Record as StoredRecord

_log = logging.getLogger(__name__)


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
        kept = memory = SessionMemory.fresh(sessions.fingerprint, policy)
        job, blobs = saved
        progress = Progress.decode(job.progress)
        if blobs and progress.log_seq == len(log):
            kept = memory = await asyncio.to_thread(sessions.decode, blobs)
        else:
            # Nothing was saved, or the log is not the one it was made from.
            self._stale = frozenset(blobs)
            memory, observed = await self._untouched(memory, records, log)
            progress = Progress(
                folded_records=observed,
                total_records=len(records),
                total_tokens=sum(record.learnable_tokens for record in records),
                log_seq=len(log),
            )
        self._saved, self._progress = kept, progress
        return await self._learnt(memory, folded=0)

    async def _untouched(
        self, memory: SessionMemory, records: list[Record], log: list[Record]
    ) -> tuple[SessionMemory, int]:
        """The latest kept version from before all that is forgotten, and how many of the records it
        has observed: it is what the fold would come to. Without one `memory`, which is fresh."""
        sessions, ask = self._sessions, self._ask
        first = min((place.seq for place in ask.statements), default=0)
        for version in reversed(await sessions.store.versions(self._lease.key)):
            if version.log_seq >= first or version.policy != ask.policy:
                continue
            before = await asyncio.to_thread(effective, log[: version.log_seq])
            if before != records[: len(before)]:
                continue
            try:
                blobs = await sessions.store.read_blobs(self._lease.key, version=version.version)
                found = await asyncio.to_thread(sessions.decode, blobs)
            except (StateError, CorruptBlobError) as error:
                _log.warning(
                    "a kept version cannot be used, so the fold begins before it: %s", error
                )
                continue
            if found.policy.digest() == ask.policy_digest:
                return found, len(before)
        return memory, 0

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
