"""Jobs: long rebuilds of a session's memory, in the background.

A session has one job at a time and takes nothing else meanwhile. A job belongs to the store: its
callers may disconnect and come back, and when its server ends, the next server that sees it resumes
from the last checkpoint. The rebuild itself is in rebuild.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from hope_runtime.errors import HopeError
from server.app.background_reading import BackgroundReading
from server.app.cancellation import complete
from server.app.job_state import Ask, Progress
from server.app.reading_queue import reads_documents, require_no_reading
from server.app.rebuild import Rebuild, check_forget, check_migrate
from server.app.residency import Entry, JobRunningError
from server.app.sessions import DrainingError, Sessions
from server.app.statements import check_forget_statements, check_ids
from server.store.base import (
    Head,
    Lease,
    LeaseHeldError,
    LeaseLostError,
    NotFoundError,
    SessionKey,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
)

_log = logging.getLogger(__name__)

# Jobs that compute at the same time; more would only keep live sessions waiting for learning.
JOBS_AT_ONCE = 2
# Watchers get the progress at least this often, also while one long consolidation runs.
HEARTBEAT_SECONDS = 5.0
MAX_RETRY_SECONDS = 30.0
# After these errors the job is resumed later: nothing is wrong with the job itself.
_PASSING = (StoreFullError, StoreUnavailableError, LeaseLostError)


class JobCancelledError(Exception):
    """The job was cancelled; the session is as it was before."""


class Running:
    """A job that runs on this server."""

    def __init__(self, key: SessionKey, ask: Ask, progress: Progress) -> None:
        self.key = key
        self.ask = ask
        self.progress = progress
        # Resolves with the session's head once the job has ended.
        self.task: asyncio.Task[Head]
        # Whether the store knows the job no more, and this server only has to let go of it.
        self.is_over: Callable[[], bool] = lambda: False
        self._advanced = asyncio.Event()
        self._stopped_by: Exception | None = None

    def advance(self, progress: Progress) -> None:
        self.progress = progress
        advanced, self._advanced = self._advanced, asyncio.Event()
        advanced.set()

    async def watch(self) -> AsyncIterator[Progress]:
        """Yield the progress, now and whenever it changes, until the job ends."""
        while not self.task.done():
            yield self.progress
            advanced = asyncio.ensure_future(self._advanced.wait())
            try:
                await asyncio.wait(
                    [self.task, advanced],
                    timeout=HEARTBEAT_SECONDS,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                advanced.cancel()
        yield self.progress

    async def result(self) -> Head:
        """Wait for the job; returns the session's head after it. Raises the error that ended it."""
        await asyncio.wait([self.task])
        if self.task.cancelled():
            raise self._stopped_by or DrainingError("the server is shutting down")
        return self.task.result()

    def refusal(self) -> JobRunningError:
        what = f"without {self.ask.forgets}" if self.ask.forgets else "from its log"
        done = self.progress
        message = (
            f"session {self.key} is being rebuilt {what} ({done.folded_records} of "
            f"{done.total_records} records) and accepts no other call until the job ends; wait "
            "for the job or cancel it"
        )
        rest = MAX_RETRY_SECONDS
        if done.learnt_tokens:
            rest = done.seconds * (done.total_tokens - done.learnt_tokens) / done.learnt_tokens
        return JobRunningError(message, min(max(rest, 1.0), MAX_RETRY_SECONDS))

    async def wait_or_refuse(self) -> None:
        """Raise JobRunningError, or wait until a job that is over has released the session."""
        if not self.is_over():
            raise self.refusal()
        await asyncio.wait([self.task])

    async def stop(self, reason: Exception) -> None:
        """End the work on this server, with a checkpoint. Returns when the session is released."""
        self._stopped_by = reason
        self.task.cancel()
        await asyncio.wait([self.task])


class Jobs:
    """Jobs of one server, with a checkpoint every `checkpoint_seconds`."""

    def __init__(self, sessions: Sessions, *, checkpoint_seconds: float = 30) -> None:
        self._sessions = sessions
        self._store = sessions.store
        self._residency = sessions.residency
        self._checkpoint_seconds = checkpoint_seconds
        self.background = BackgroundReading(sessions)
        self._slots = asyncio.Semaphore(JOBS_AT_ONCE)
        self._upkeep: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Resume jobs of servers that ended, now and whenever there are some."""
        self._upkeep = asyncio.create_task(self._keep_up())

    async def stop(self) -> None:
        """Checkpoint every job; another server, or this one later, resumes it."""
        if self._upkeep:
            self._upkeep.cancel()
            await asyncio.wait([self._upkeep])
        reason = DrainingError(
            "the server is shutting down; the job resumes when a server is available"
        )
        await self.background.stop()
        running = [entry.job for entry in self._residency.entries.values() if entry.job]
        await asyncio.gather(*(job.stop(reason) for job in running))

    def running(self, key: SessionKey) -> Running | None:
        """The session's job, if it runs here."""
        entry = self._residency.entries.get(key)
        job = entry.job if entry else None
        assert job is None or isinstance(job, Running)
        return job

    async def forget_document(self, key: SessionKey, document: str) -> Running:
        """Rebuild a session without a document, whose name can be used again afterwards."""
        return await self._begin(
            key,
            lambda job: job.document == document,
            lambda head: check_forget(self._sessions, head, document),
        )

    async def forget_statements(self, key: SessionKey, ids: Sequence[str]) -> Running:
        """Rebuild a session as if it had never been taught some statements."""
        places = check_ids(ids)
        return await self._begin(
            key,
            lambda job: {(place.seq, place.start) for place in job.statements} == places,
            lambda head: check_forget_statements(self._sessions, head, places),
        )

    async def migrate(self, key: SessionKey, policy: str) -> Running:
        """Rebuild a session as if it had learnt under `policy` from the beginning."""
        return await self._begin(
            key,
            lambda job: not job.forgets and policy in ("", job.policy),
            lambda head: check_migrate(self._sessions, head, policy),
        )

    async def cancel(self, key: SessionKey) -> Head:
        """End the session's job. What a rebuild did is lost, what was read stays. None is no
        error."""
        self._sessions.admit()
        await self.background.cancel(key)
        async with self._residency.locked(key) as entry:
            if entry.job is not None:
                await entry.job.stop(JobCancelledError("the job was cancelled"))
            if (await self._store.head(key)).job is not None:
                await self._residency.release(entry)
                lease = await self._residency.acquire(key)
                async with self._residency.kept(lease):
                    await self._store.end_job(lease)
            return await self._store.head(key)

    async def _begin(
        self,
        key: SessionKey,
        is_it: Callable[[Ask], bool],
        check: Callable[[Head], Awaitable[Ask]],
    ) -> Running:
        """Join the job that is asked for, or begin it. Raises JobRunningError during another."""
        self._sessions.admit()
        async with self._residency.locked(key) as entry:
            self._sessions.admit()
            running = self.running(key)
            if running is not None and running.is_over() and not is_it(running.ask):
                await running.wait_or_refuse()
                running = None
            head = await self._store.head(key)
            require_no_reading(head)
            if running is None:
                ask = Ask.decode(head.job.request) if head.job else await check(head)
                running = await complete(self._launch(entry, key, ask))
            if not is_it(running.ask):
                raise running.refusal()
            return running

    async def _launch(self, entry: Entry, key: SessionKey, ask: Ask) -> Running:
        """Run a job, stored first if the store has none. The caller holds the entry's lock."""
        await self._sessions.store_watch.require_room()
        await self._residency.release(entry)
        lease = await self._residency.acquire(key)
        try:
            job = (await self._store.head(key)).job
            job = job or await self._store.save_job(
                lease, request=ask.encode(), progress=Progress().encode()
            )
        except BaseException:
            with contextlib.suppress(StoreError):
                await self._store.release(lease)
            raise
        running = Running(key, ask, Progress.decode(job.progress))
        running.task = asyncio.create_task(self._run(entry, lease, running))
        running.task.add_done_callback(_log_failure)
        entry.job = running
        await asyncio.sleep(0)  # it has begun, so whatever ends it, it lets go of the session
        return running

    async def _run(self, entry: Entry, lease: Lease, running: Running) -> Head:
        try:
            async with self._residency.kept(lease), self._slots:
                return await self._fold(lease, running)
        finally:
            entry.job = None
            self._residency.forget_empty(running.key)

    async def _fold(self, lease: Lease, running: Running) -> Head:
        fold = Rebuild(
            self._sessions,
            lease,
            running.ask,
            checkpoint_seconds=self._checkpoint_seconds,
            on_progress=running.advance,
        )
        running.is_over = lambda: fold.committed is not None
        try:
            return await fold.run()
        except asyncio.CancelledError:
            if fold.committed:
                return fold.committed  # it was too late to stop it
            with contextlib.suppress(StoreError):  # what was saved before is still there
                await complete(fold.checkpoint())
            raise
        except _PASSING:
            raise
        except Exception:
            # It would fail again: the session is given back as it was.
            running.is_over = lambda: True
            with contextlib.suppress(StoreError):
                await self._store.end_job(lease)
            raise

    async def _keep_up(self) -> None:
        while True:
            try:
                for key in await self._store.jobs():
                    await self._take_up(key)
            except StoreError as error:
                _log.warning("cannot list unfinished jobs: %s", error)
            await asyncio.sleep(self._residency.lease_seconds / 3)

    async def _take_up(self, key: SessionKey) -> None:
        """Resume a job that no server runs."""
        if self.running(key) is not None:
            return
        try:
            async with self._residency.locked(key) as entry:
                head = await self._store.head(key)
                ours = head.fingerprint in self._sessions.base.known
                if ours and reads_documents(head.job):
                    self.background.take_up(key)
                elif ours and entry.job is None and head.job:
                    await complete(self._launch(entry, key, Ask.decode(head.job.request)))
        except (LeaseHeldError, NotFoundError):
            pass  # another server is at it, or somebody erased the session
        except (StoreError, HopeError) as error:
            _log.warning("cannot resume the job of a session: %s", error)


def _log_failure(task: asyncio.Task[Head]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("a background job failed", exc_info=error)
