"""The client for programs without an event loop: every method of HopeClient, as an ordinary one.

Knows which methods there are and nothing of what they do: each is the method of
the async client, run in the client's own thread (`background.py`). Arguments,
results, errors and retries are the same, and so are the documentation and the types.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, Unpack

import grpc
from hope.v1 import inference_pb2 as pb

from hope_client.background import ClientThread
from hope_client.client import DEFAULT_TARGET, HopeClient
from hope_client.errors import InternalError
from hope_client.events import IngestEvent
from hope_client.ingest import IngestOptions
from hope_client.names import session_name
from hope_client.sessions import Sessions
from hope_client.sources import DocumentSource
from hope_client.transport import RetryPolicy, Token

P = ParamSpec("P")
T = TypeVar("T")


class _Face:
    """Something of the async client, and the thread in which it may be used."""

    def __init__(self, thread: ClientThread[HopeClient], part: Callable[[HopeClient], Any]) -> None:
        self._thread = thread
        # Asked with every call: after a fork the thread has another client.
        self._part = part


def _blocking(
    method: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[_Face, P], T]:
    """The method that returns what `method` returns when it is awaited."""

    @functools.wraps(method)
    def call(self: _Face, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._thread.run(lambda client: method(self._part(client), *args, **kwargs))

    return call


def _streaming(
    method: Callable[Concatenate[Any, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate[_Face, P], Generator[T, None, None]]:
    """The method whose generator yields what that of `method` yields."""

    @functools.wraps(method)
    def call(self: _Face, /, *args: P.args, **kwargs: P.kwargs) -> Generator[T, None, None]:
        self._thread.check_open()
        signature.bind(self, *args, **kwargs)  # a wrong call is refused now, not at the first item
        return self._thread.iterate(lambda client: method(self._part(client), *args, **kwargs))

    signature = inspect.signature(method)
    item = signature.return_annotation.removeprefix("AsyncGenerator[").removesuffix(", None]")
    vars(call)["__signature__"] = signature.replace(
        return_annotation=f"Generator[{item}, None, None]"
    )
    return call


class SyncSessions(_Face):
    """`Sessions`, as `SyncHopeClient.sessions` gives them; documented there."""

    def __init__(self, thread: ClientThread[HopeClient], user: str) -> None:
        super().__init__(thread, lambda client: client.sessions)
        self._user = user

    def name(self, session: str) -> str:
        """Full name of a session given in short or full."""
        return session_name(session, self._user)

    create = _blocking(Sessions.create)
    get = _blocking(Sessions.get)
    get_or_create = _blocking(Sessions.get_or_create)
    document = _blocking(Sessions.document)
    list = _streaming(Sessions.list)
    delete = _blocking(Sessions.delete)
    fork = _blocking(Sessions.fork)
    snapshot = _blocking(Sessions.snapshot)
    snapshots = _streaming(Sessions.snapshots)
    consolidations = _streaming(Sessions.consolidations)
    delete_snapshot = _blocking(Sessions.delete_snapshot)
    rollback = _blocking(Sessions.rollback)
    rename = _blocking(Sessions.rename)
    reset = _blocking(Sessions.reset)
    forget_document = _blocking(Sessions.forget_document)
    statements = _streaming(Sessions.statements)
    forget_statements = _blocking(Sessions.forget_statements)
    migrate = _blocking(Sessions.migrate)
    cancel_job = _blocking(Sessions.cancel_job)
    export = _streaming(Sessions.export)
    import_ = _blocking(Sessions.import_)
    diff = _blocking(Sessions.diff)
    delete_user = _blocking(Sessions.delete_user)
    consolidate = _blocking(Sessions.consolidate)
    end_conversation = _blocking(Sessions.end_conversation)


class SyncHopeClient(_Face):
    """HopeClient for programs without an event loop, or within somebody else's (a notebook's).

        with SyncHopeClient() as client:
            client.sessions.get_or_create("diary")
            for event in client.generate("diary", "My cat is called Ada."):
                if isinstance(event, TextDelta):
                    print(event.text, end="")

    Arguments are those of HopeClient. Any thread may use it, several at a time, of the process in
    which it was made: in one that was forked from it calls raise ClientForkedError, and a client
    that is made there works, unless a call of this one was under way at the fork.
    Streams are generators: leaving one early (its `close`, or the end of the
    client) cancels the turn, which then leaves no trace, and so does Ctrl-C while
    one is waited for.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        user: str = "local",
        timeout_seconds: float | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        token: Token | None = None,
        retry: RetryPolicy | None = None,
        resume: RetryPolicy | None = None,
    ) -> None:
        thread = ClientThread(
            lambda: HopeClient(
                target,
                user=user,
                timeout_seconds=timeout_seconds,
                credentials=credentials,
                token=token,
                retry=retry,
                resume=resume,
            )
        )
        super().__init__(thread, lambda client: client)
        self.sessions = SyncSessions(thread, user)
        # Nobody holds the thread's client once this one is gone; also at the end of the program.
        self._close = weakref.finalize(self, thread.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection and cancels what still runs on it, which then raises
        ClientClosedError where it is waited for, as does every later call."""
        self._close()

    generate = _streaming(HopeClient.generate)
    say = _blocking(HopeClient.say)
    ingest_events = _streaming(HopeClient.ingest_events)
    score = _blocking(HopeClient.score)
    server_info = _blocking(HopeClient.server_info)
    serving = _blocking(HopeClient.serving)

    def ingest(
        self,
        session: str,
        source: DocumentSource,
        *,
        on_progress: Callable[[IngestEvent], object] | None = None,
        **options: Unpack[IngestOptions],
    ) -> pb.IngestResult:
        """`ingest_events` for those who want the end; `on_progress` gets every other event, in the
        thread of the caller, and may use the client."""
        events = self.ingest_events(session, source, **options)
        with contextlib.closing(events):
            for event in events:
                if isinstance(event, pb.IngestResult):
                    return event
                if on_progress is not None:
                    on_progress(event)
        raise InternalError("the ingest ended without a result")
