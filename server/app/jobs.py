"""Jobs: folding a log again while nobody need wait for it.

One job on a session at a time, which takes nothing else meanwhile. A job belongs to the store: its
callers may go away and come back, and when its server ends, whichever server sees it next goes on
from what was saved last. What is folded is refold.py's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

from hope_runtime.errors import HopeError
from server.app.cancellation import complete
from server.app.rebuild import Ask, Progress, Refold, check_forget, check_migrate
from server.app.residency import Entry, JobRunningError
from server.app.sessions import DrainingError, Sessions
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
# Who watches hears of it at least so often, also while one long consolidation runs.
HEARTBEAT_SECONDS = 5.0
MAX_RETRY_SECONDS = 30.0
# After these the job goes on later: nothing is wrong with what it asks for.
_PASSING = (StoreFullError, StoreUnavailableError, LeaseLostError)


class JobCancelledError(Exception):
    """Somebody took the job back; the session is as it was before."""


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
        """The progress, now and whenever it changes, until the job ends."""
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
        """The session after the job. Raises what ended it otherwise."""
        await asyncio.wait([self.task])
        if self.task.cancelled():
            raise self._stopped_by or DrainingError("the server is shutting down")
        return self.task.result()

    def refusal(self) -> JobRunningError:
        what = f"without document '{self.ask.document}'" if self.ask.document else "from its log"
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
        """Raises JobRunningError, or waits until a job that is over has let go of the session."""
        if not self.is_over():
            raise self.refusal()
        await asyncio.wait([self.task])

    async def stop(self, reason: Exception) -> None:
        """Ends the work here; what it has made is saved. Returns when the session is let go."""
        self._stopped_by = reason
        self.task.cancel()
        await asyncio.wait([self.task])


class Jobs:
    """The jobs of one server. What a job has made is saved every `checkpoint_seconds`."""

    def __init__(self, sessions: Sessions, *, checkpoint_seconds: float = 30) -> None:
        self._sessions = sessions
        self._store = sessions.store
        self._residency = sessions.residency
        self._checkpoint_seconds = checkpoint_seconds
        self._slots = asyncio.Semaphore(JOBS_AT_ONCE)
        self._upkeep: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Goes on with the jobs of servers that ended, now and whenever there are some."""
        self._upkeep = asyncio.create_task(self._keep_up())

    async def stop(self) -> None:
        """Saves how far every job is; another server, or this one later, goes on from there."""
        if self._upkeep:
            self._upkeep.cancel()
            await asyncio.wait([self._upkeep])
        reason = DrainingError(
            "the server is shutting down; the job resumes when a server is available"
        )
        running = [entry.job for entry in self._residency.entries.values() if entry.job]
        await asyncio.gather(*(job.stop(reason) for job in running))

    def running(self, key: SessionKey) -> Running | None:
        """The session's job, if it runs here."""
        entry = self._residency.entries.get(key)
        job = entry.job if entry else None
        assert job is None or isinstance(job, Running)
        return job

    async def forget_document(self, key: SessionKey, document: str) -> Running:
        """The session as if it had never read the document, whose name can be used again."""
        return await self._begin(
            key,
            lambda job: job.document == document,
            lambda head: check_forget(self._sessions, head, document),
        )

    async def migrate(self, key: SessionKey, policy: str) -> Running:
        """The session as it would be had it learnt under `policy` from the beginning."""
        return await self._begin(
            key,
            lambda job: not job.document and policy in ("", job.policy),
            lambda head: check_migrate(self._sessions, head, policy),
        )

    async def cancel(self, key: SessionKey) -> Head:
        """Ends the session's job, wherever it stands; the session is as it was before. None is no
        error."""
        self._sessions.admit()
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
        """Joins the job that is asked for, or begins it. Raises JobRunningError for another one."""
        self._sessions.admit()
        async with self._residency.locked(key) as entry:
            self._sessions.admit()
            running = self.running(key)
            if running is not None and running.is_over() and not is_it(running.ask):
                await running.wait_or_refuse()
                running = None
            head = await self._store.head(key)
            if running is None:
                ask = Ask.decode(head.job.request) if head.job else await check(head)
                running = await complete(self._launch(entry, key, ask))
            if not is_it(running.ask):
                raise running.refusal()
            return running

    async def _launch(self, entry: Entry, key: SessionKey, ask: Ask) -> Running:
        """Runs a job, which is begun if the store has none. The entry's lock is held."""
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
        fold = Refold(
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
        """Goes on with a job that runs nowhere."""
        if self.running(key) is not None:
            return
        try:
            async with self._residency.locked(key) as entry:
                head = await self._store.head(key)
                ours = head.fingerprint == self._sessions.fingerprint
                if entry.job is None and head.job and ours:
                    await complete(self._launch(entry, key, Ask.decode(head.job.request)))
        except (LeaseHeldError, NotFoundError):
            pass  # another server is at it, or somebody erased the session
        except (StoreError, HopeError) as error:
            _log.warning("cannot resume the job of a session: %s", error)


def _log_failure(task: asyncio.Task[Head]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("a background job failed", exc_info=error)
