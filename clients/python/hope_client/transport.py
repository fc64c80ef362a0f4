"""The channel, and the one rule for calling again.

Knows gRPC; knows no sessions and no text. What a repeat could apply twice is not
repeated: the caller of this module says which calls may be, `Attempts` which errors.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import grpc

from hope_client.errors import (
    AbortedError,
    ClientClosedError,
    HopeClientError,
    UnavailableError,
    from_rpc_error,
)
from hope_client.forks import Birthplace, add_connection
from hope_client.routing import session_header, session_of

if TYPE_CHECKING:
    from google.protobuf.message import Message

MAX_MESSAGE_BYTES = 4 * 1024 * 1024

_CHANNEL_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A turn may be silent for minutes while a session learns; pings tell that
    # from a dead peer. Servers punish pings more often, or without a call.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 0),
    # gRPC's own wait between connections grows to two minutes; a client that
    # resumes an ingest should find a restarted server sooner.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
]

Token: TypeAlias = str | Callable[[], str]
"""A bearer token, or what gives the present one before each call, for those that expire."""

StubT = TypeVar("StubT")
RequestT = TypeVar("RequestT", bound="Message")
ResponseT = TypeVar("ResponseT", bound="Message")


# Why a server refuses a call before it looks at it, so that any call may be made again.
_REFUSED_UNSEEN = frozenset({"DRAINING", "SESSION_OWNED_ELSEWHERE"})

# Another server took the session over while this one worked on it; the turn was not committed.
_SESSION_LOST = "SESSION_LOST"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Number of attempts and waits between them for calls that are safe to repeat.

    The wait doubles from `initial_seconds` to `maximum_seconds` and is jittered,
    so that clients of a restarted server do not all come back at once. There are
    more than `attempts` as long as `patience_seconds` have not passed since the first
    failure in a row.
    """

    attempts: int = 4
    initial_seconds: float = 0.25
    maximum_seconds: float = 8.0
    patience_seconds: float = 0.0

    def delay_seconds(self, failures: int, retry_after_seconds: float | None) -> float:
        """Wait after the `failures`-th failure in a row (from 1), the server's wish included."""
        backoff = min(self.initial_seconds * 2.0 ** (failures - 1), self.maximum_seconds)
        return (retry_after_seconds or 0.0) + backoff * random.uniform(0.5, 1.0)


class Attempts:
    """Counts the attempts of one operation, within one deadline for all of them.

    Args:
        repeatable: whether the operation may be carried out twice without harm. If
            not, it is repeated only where the server refused it unseen.
    """

    def __init__(
        self, policy: RetryPolicy, timeout_seconds: float | None = None, *, repeatable: bool
    ) -> None:
        self._policy = policy
        self._deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        self._repeatable = repeatable
        self.failures = 0
        self._failing_since = 0.0

    def remaining_seconds(self) -> float | None:
        """Time left for the next attempt; None without a deadline."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def succeeded(self) -> None:
        """Something was achieved: later failures are counted afresh."""
        self.failures = 0

    def worth_repeating(self, error: HopeClientError) -> bool:
        """Whether the next attempt may succeed and can do no harm."""
        if isinstance(error, UnavailableError):
            return self._repeatable or error.reason in _REFUSED_UNSEEN
        lost = isinstance(error, AbortedError) and error.reason == _SESSION_LOST
        return lost and self._repeatable

    def delay_after(self, error: HopeClientError, *, anyway: bool = False) -> float:
        """Seconds to wait before the next attempt; `anyway` is for an error that
        worth_repeating does not know to be harmless, but the caller does.

        Raises:
            HopeClientError: `error` itself, when there is no next attempt.
        """
        if not (anyway or self.worth_repeating(error)):
            raise error
        if self.failures == 0:
            self._failing_since = time.monotonic()
        self.failures += 1
        failing_seconds = time.monotonic() - self._failing_since
        patient = (
            self.failures < self._policy.attempts or failing_seconds < self._policy.patience_seconds
        )
        delay = self._policy.delay_seconds(self.failures, error.retry_after_seconds)
        remaining = self.remaining_seconds()
        if not patient or (remaining is not None and delay > remaining):
            raise error
        return delay


class Transport:
    """A channel with a deadline, a token and a retry policy for the calls made through it.

    Raises:
        ValueError: a token is to go to another machine in clear text.
        ClientForkedError: gRPC cannot be used in this process.
    """

    def __init__(
        self,
        target: str,
        *,
        credentials: grpc.ChannelCredentials | None,
        token: Token | None,
        timeout_seconds: float | None,
        retry: RetryPolicy,
    ) -> None:
        if token and credentials is None and not _is_near(target):
            raise ValueError("a token is only sent over TLS; pass credentials as well")
        self._token = token
        self._birthplace = Birthplace()
        self._closed = False
        add_connection(self)
        self._channel = (
            grpc.aio.insecure_channel(target, options=_CHANNEL_OPTIONS)
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, options=_CHANNEL_OPTIONS)
        )
        self._timeout_seconds = timeout_seconds
        self._retry = retry
        self._stubs: list[object] = []

    @property
    def closed(self) -> bool:
        """Whether the connection was given up."""
        return self._closed

    def stub(self, kind: Callable[[grpc.aio.Channel], StubT]) -> StubT:
        """A service's methods over this connection. They do not keep it alive once it is closed."""
        made = kind(self._channel)
        self._stubs.append(made)
        return made

    def metadata(self, session: str) -> tuple[tuple[str, str], ...]:
        """Metadata of a call about the session of this name: credential and routing key;
        without a session, the empty string."""
        token = self._token() if callable(self._token) else self._token
        authorization = (("authorization", f"Bearer {token}"),) if token else ()
        return authorization + session_header(session, token or "")

    async def close(self) -> None:
        """Ends the connection; whoever waits for a call on it gets a ClientClosedError. Does
        nothing in a process that was forked from the one that made it."""
        if self._closed or self._birthplace.left:
            return
        self._closed = True
        channel = self._channel
        del self._channel
        for stub in self._stubs:
            for method in vars(stub):
                setattr(stub, method, None)
        await channel.close(None)

    @contextlib.contextmanager
    def translating(self) -> Iterator[None]:
        """Turns what gRPC raises within the block into errors of this package."""
        self._birthplace.check()
        if self._closed:
            raise ClientClosedError
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        except asyncio.CancelledError:
            # To whoever waits for a call, closing the channel looks like a cancellation.
            task = asyncio.current_task()
            if self._closed and not (task and task.cancelling()):
                raise ClientClosedError from None
            raise

    def attempts(self, *, repeatable: bool) -> Attempts:
        """Attempts of a new operation."""
        return Attempts(self._retry, self._timeout_seconds, repeatable=repeatable)

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT],
        request: RequestT,
        *,
        repeatable: bool = False,
        attempts: Attempts | None = None,
    ) -> ResponseT:
        """One unary call. `repeatable` as for Attempts, which a caller who wants to know
        whether the call was repeated gives instead."""
        attempts = attempts or self.attempts(repeatable=repeatable)
        while True:
            try:
                with self.translating():
                    metadata = self.metadata(session_of(request))
                    return await method(
                        request, timeout=attempts.remaining_seconds(), metadata=metadata
                    )
            except HopeClientError as error:
                await asyncio.sleep(attempts.delay_after(error))

    async def stream(
        self, method: grpc.aio.UnaryStreamMultiCallable[RequestT, ResponseT], request: RequestT
    ) -> AsyncGenerator[ResponseT, None]:
        """The answers of one call that changes nothing; it is repeated until the first answer."""
        attempts = self.attempts(repeatable=True)
        answered = False
        while True:
            call = None
            try:
                with self.translating():
                    metadata = self.metadata(session_of(request))
                    call = method(request, timeout=attempts.remaining_seconds(), metadata=metadata)
                    async for response in call:
                        answered = True
                        yield response
                return
            except HopeClientError as error:
                if answered:
                    raise
                await asyncio.sleep(attempts.delay_after(error))
            finally:
                if call is not None:
                    call.cancel()

    async def send(
        self,
        method: grpc.aio.StreamUnaryMultiCallable[RequestT, ResponseT],
        requests: AsyncIterator[RequestT],
        *,
        session: str,
    ) -> ResponseT:
        """One call about `session` with a row of requests, which is not repeated: they come
        once."""
        with self.translating():
            metadata = self.metadata(session)
            return await method(requests, timeout=self._timeout_seconds, metadata=metadata)


def _is_near(target: str) -> bool:
    """Whether what goes to the target stays on this machine."""
    host = target.rpartition(":")[0].strip("[]") or target
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
