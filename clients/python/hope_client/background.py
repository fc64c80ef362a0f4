"""The thread in which a client lives for callers without an event loop.

Knows threads and event loops; which methods are called through it is in `sync.py`.
Everything of the client runs on the loop of that one thread, so callers may come
from any number of others. What a caller waits for can be interrupted: Ctrl-C
cancels it on the loop before KeyboardInterrupt reaches the caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from concurrent.futures import Future
from contextvars import Context
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, Protocol, TypeVar, TypeVarTuple

from hope_client.errors import ClientClosedError, ClientForkedError
from hope_client.forks import Birthplace, add_client

# How long an interrupted caller waits for the server to be told. It takes milliseconds.
_CANCEL_SECONDS = 2.0
# How long a fork waits for calls to end. A stream may take as long as its reader likes.
_PARK_SECONDS = 1.0


class Closable(Protocol):
    """State of the background thread."""

    async def close(self) -> None: ...


T = TypeVar("T")
Ts = TypeVarTuple("Ts")
ClientT = TypeVar("ClientT", bound=Closable)


class _End(Enum):
    END = 0


class ClientThread(Generic[ClientT]):
    """A client, made by `connect` within the loop that it uses, and that loop's thread.

    While nothing runs in it, a fork of the process ends the thread and its connection; the next
    call makes both again.

    Raises:
        Exception: what `connect` raised.
    """

    def __init__(self, connect: Callable[[], ClientT]) -> None:
        self._connect = connect
        self._birthplace = Birthplace()
        # Reentrant: the garbage collector may close a stream in a thread that holds it.
        self._lock = threading.RLock()
        self._closed = False
        self._changed = threading.Condition(self._lock)
        self._uses = 0  # calls and streams under way
        self._parking = False
        self._running: _Running[ClientT] | None = None
        add_client(self)
        with self._lock:
            self._start()

    def close(self) -> None:
        """Closes the client; whoever waits for it gets a ClientClosedError."""
        if self._birthplace.left:
            return
        with self._lock:
            self._closed = True
            running = self._running
            self._running = None
            if running is not None:
                running.stop()
        if running is not None and not running.inside():
            running.thread.join()

    def run(self, work: Callable[[ClientT], Coroutine[Any, Any, T]]) -> T:
        """Result of `work` of the client, run in the loop.

        Raises:
            ClientClosedError: the client was closed, before or meanwhile.
            ClientForkedError: the client is another process's.
            RuntimeError: called by what runs in the thread itself, which would wait for itself.
        """
        with self._used() as running:
            return self._run(running, work(running.client))

    def iterate(
        self, items: Callable[[ClientT], AsyncGenerator[T, None]]
    ) -> Generator[T, None, None]:
        """`items` of the client as an ordinary generator; closing it closes them."""
        with self._used() as running:
            stream = items(running.client)

            async def step() -> T | _End:
                return await anext(stream, _End.END)

            finished = False
            try:
                while (item := self._run(running, step())) is not _End.END:
                    yield item
                finished = True
            finally:
                if not (finished or self._closed or self._birthplace.left):
                    self._let_go(running, stream)

    def check_open(self) -> None:
        """Raises ClientClosedError if the client is closed."""
        self._birthplace.check()
        if self._closed:
            raise ClientClosedError

    def park(self) -> None:
        """Ends the thread if nothing uses it any more, after a moment; until `unpark` nothing
        does."""
        if self._birthplace.left:
            return
        self._lock.acquire()
        self._parking = True
        self._changed.wait_for(lambda: self._uses == 0, _PARK_SECONDS)
        if self._uses == 0 and self._running is not None:
            self._running.stop()
            self._running.thread.join()
            self._running = None

    def unpark(self) -> None:
        """Lets calls begin again, each of which starts the thread if there is none."""
        if not self._birthplace.left:
            self._parking = False
            self._changed.notify_all()
            self._lock.release()

    @contextlib.contextmanager
    def _used(self) -> Iterator[_Running[ClientT]]:
        self._birthplace.check()  # before the lock, which another thread may hold for ever there
        with self._lock:
            self._changed.wait_for(lambda: not self._parking)
            self.check_open()
            running = self._running or self._start()
            if running.inside():
                raise RuntimeError(
                    "an async iterator that a client reads cannot wait for that client"
                )
            self._uses += 1
        try:
            yield running
        finally:
            if not self._birthplace.left:
                with self._lock:
                    self._uses -= 1
                    self._changed.notify_all()

    def _start(self) -> _Running[ClientT]:
        ready: Future[tuple[ClientT, asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        # A daemon, because a program that forgot to close its client must be able to end.
        thread = threading.Thread(
            target=_run_loop, args=(_live(self._connect, ready),), name="hope-client", daemon=True
        )
        thread.start()
        try:
            client, loop, stop = ready.result()
        except Exception:
            thread.join()
            raise
        self._running = _Running(client, thread, loop, stop)
        return self._running

    def _run(self, running: _Running[ClientT], work: Coroutine[Any, Any, T]) -> T:
        if running.inside():
            work.close()
            raise RuntimeError("an iterator that a client reads cannot call the same client")
        task: asyncio.Task[T] | None = None
        done = threading.Event()

        def begin() -> None:
            nonlocal task
            task = running.loop.create_task(work)
            task.add_done_callback(lambda _: done.set())

        def cancel() -> None:
            if task is not None:
                task.cancel()
            else:  # interrupted before it was posted
                work.close()
                done.set()

        try:
            self._post(running, begin)
            done.wait()
        except (ClientClosedError, ClientForkedError):
            work.close()
            raise
        except BaseException:  # A signal's, such as KeyboardInterrupt: `work` raises in its task.
            if not self._closed:
                self._post(running, cancel)
                done.wait(_CANCEL_SECONDS)
            raise
        assert task is not None
        try:
            return task.result()
        except asyncio.CancelledError:
            # Nobody else cancels a task that nobody else knows.
            raise ClientClosedError from None

    def _let_go(self, running: _Running[ClientT], items: AsyncGenerator[T, None]) -> None:
        async def close() -> None:
            await items.aclose()

        if running.inside():  # The garbage collector may come by in any thread.
            running.loop.create_task(close())
        else:
            self._run(running, close())

    def _post(self, running: _Running[ClientT], callback: Callable[[], None]) -> None:
        # Under the lock, so that nothing is posted behind what stops the loop: it would never run.
        self._birthplace.check()
        with self._lock:
            self.check_open()
            running.loop.call_soon_threadsafe(callback)


@dataclass(frozen=True, slots=True)
class _Running(Generic[ClientT]):
    """A client and the thread in which it lives."""

    client: ClientT
    thread: threading.Thread
    loop: asyncio.AbstractEventLoop
    stopping: asyncio.Event

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.stopping.set)

    def inside(self) -> bool:
        return threading.current_thread() is self.thread


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that ignores what other threads post to it once it is closed.

    gRPC has one queue of completions for the loops of a process: whichever loop wakes hands each
    completion to the loop it belongs to. An error at a closed one would end that round, and the
    completions behind it, which are other clients' replies, would wait for ever.
    """

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        try:
            return super().call_soon_threadsafe(callback, *args, context=context)
        except RuntimeError:
            if not self.is_closed():
                raise
        unused = asyncio.Handle(callback, args, self, context)
        unused.cancel()
        return unused


def _run_loop(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=_Loop) as runner:
        runner.run(work)


async def _live(
    connect: Callable[[], ClientT],
    ready: Future[tuple[ClientT, asyncio.AbstractEventLoop, asyncio.Event]],
) -> None:
    stop = asyncio.Event()
    try:
        client = connect()
    except BaseException as error:
        ready.set_exception(error)
        return
    ready.set_result((client, asyncio.get_running_loop(), stop))
    # The runner then cancels the tasks that are left and closes the streams that were paused.
    await stop.wait()
    await client.close()
