"""The thread in which a client lives for callers without an event loop.

Knows threads and event loops; which methods are called through it is in `sync.py`.
Everything of the client runs on the loop of that one thread, so callers may come
from any number of others. What a caller waits for can be interrupted: Ctrl-C
cancels it on the loop before KeyboardInterrupt reaches the caller.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from concurrent.futures import Future
from enum import Enum
from typing import Any, Generic, Protocol, TypeVar

from hope_client.errors import ClientClosedError

# How long an interrupted caller waits for the server to be told. It takes milliseconds.
_CANCEL_SECONDS = 2.0


class Closable(Protocol):
    """State of the background thread."""

    async def close(self) -> None: ...


T = TypeVar("T")
ClientT = TypeVar("ClientT", bound=Closable)


class _End(Enum):
    END = 0


class ClientThread(Generic[ClientT]):
    """A client, made by `connect` within the loop that it will use, and that loop's thread.

    Raises:
        Exception: what `connect` raised.
    """

    def __init__(self, connect: Callable[[], ClientT]) -> None:
        self._lock = threading.Lock()
        self._closed = False
        ready: Future[tuple[ClientT, asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        # A daemon, because a program that forgot to close its client must be able to end.
        self._thread = threading.Thread(
            target=asyncio.run, args=(_live(connect, ready),), name="hope-client", daemon=True
        )
        self._thread.start()
        try:
            self.client, self._loop, self._stop = ready.result()
        except Exception:
            self._thread.join()
            raise

    def close(self) -> None:
        """Closes the client; whoever waits for it gets a ClientClosedError."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._loop.call_soon_threadsafe(self._stop.set)
        if not self._inside():
            self._thread.join()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Result of `work`, run in the loop.

        Raises:
            ClientClosedError: the client was closed, before or meanwhile.
            RuntimeError: called by what runs in the thread itself, which would wait for itself.
        """
        if self._inside():
            work.close()
            raise RuntimeError("an async iterator that a client reads cannot wait for that client")
        task: asyncio.Task[T] | None = None
        done = threading.Event()

        def begin() -> None:
            nonlocal task
            task = self._loop.create_task(work)
            task.add_done_callback(lambda _: done.set())

        def cancel() -> None:
            if task is not None:
                task.cancel()
            else:  # interrupted before it was posted
                work.close()
                done.set()

        try:
            self._post(begin)
            done.wait()
        except ClientClosedError:
            work.close()
            raise
        except BaseException:  # A signal's, such as KeyboardInterrupt: `work` raises in its task.
            if not self._closed:
                self._post(cancel)
                done.wait(_CANCEL_SECONDS)
            raise
        assert task is not None
        try:
            return task.result()
        except asyncio.CancelledError:
            # Nobody else cancels a task that nobody else knows.
            raise ClientClosedError from None

    def iterate(self, items: AsyncGenerator[T, None]) -> Generator[T, None, None]:
        """`items` as an ordinary generator; closing it closes `items`."""

        async def step() -> T | _End:
            return await anext(items, _End.END)

        finished = False
        try:
            while (item := self.run(step())) is not _End.END:
                yield item
            finished = True
        finally:
            if not (finished or self._closed):
                self._let_go(items)

    def check_open(self) -> None:
        """Raises ClientClosedError if the client is closed."""
        if self._closed:
            raise ClientClosedError

    def _let_go(self, items: AsyncGenerator[T, None]) -> None:
        async def close() -> None:
            await items.aclose()

        if self._inside():  # The garbage collector may come by in any thread.
            self._loop.create_task(close())
        else:
            self.run(close())

    def _post(self, callback: Callable[[], None]) -> None:
        # Under the lock, so that nothing is posted behind what stops the loop: it would never run.
        with self._lock:
            self.check_open()
            self._loop.call_soon_threadsafe(callback)

    def _inside(self) -> bool:
        return threading.current_thread() is self._thread


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
    # asyncio.run then cancels the tasks that are left and closes the streams that were paused.
    await stop.wait()
    await client.close()
