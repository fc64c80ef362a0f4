"""The channel, and the one rule for calling again.

Knows gRPC; knows no sessions and no text. Only UNAVAILABLE is tried again, and
only where the caller of this module says that a repeat does no harm.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import grpc

from hope_client.errors import HopeClientError, UnavailableError, from_rpc_error

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

RequestT = TypeVar("RequestT", bound="Message")
ResponseT = TypeVar("ResponseT", bound="Message")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often, and after which wait, a harmless call is repeated.

    The wait doubles from `initial_seconds` to `maximum_seconds` and is jittered,
    so that clients of a restarted server do not all come back at once.
    """

    attempts: int = 4
    initial_seconds: float = 0.25
    maximum_seconds: float = 8.0

    def delay_seconds(self, failures: int, retry_after_seconds: float | None) -> float:
        """Wait after the `failures`-th failure in a row (from 1); at least what the server asks."""
        backoff = min(self.initial_seconds * 2.0 ** (failures - 1), self.maximum_seconds)
        return max(retry_after_seconds or 0.0, backoff * random.uniform(0.5, 1.0))


ONCE = RetryPolicy(attempts=1)


class Attempts:
    """Counts the attempts of one operation, within one deadline for all of them."""

    def __init__(self, policy: RetryPolicy, timeout_seconds: float | None = None) -> None:
        self._policy = policy
        self._deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        self.failures = 0

    def remaining_seconds(self) -> float | None:
        """Time left for the next attempt; None without a deadline."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def succeeded(self) -> None:
        """Something was achieved: later failures are counted afresh."""
        self.failures = 0

    def delay_after(self, error: HopeClientError) -> float:
        """Seconds to wait before the next attempt.

        Raises:
            HopeClientError: `error` itself, when there is no next attempt.
        """
        self.failures += 1
        delay = self._policy.delay_seconds(self.failures, error.retry_after_seconds)
        remaining = self.remaining_seconds()
        if self.failures >= self._policy.attempts or (remaining is not None and delay > remaining):
            raise error
        return delay

    async def wait_after(self, error: HopeClientError) -> None:
        """Waits for the next attempt; raises `error` if it is not worth one, or there is none."""
        if not isinstance(error, UnavailableError):
            raise error
        await asyncio.sleep(self.delay_after(error))


class Transport:
    """A channel with a deadline and a retry policy for the calls made through it."""

    def __init__(
        self,
        target: str,
        *,
        credentials: grpc.ChannelCredentials | None,
        timeout_seconds: float | None,
        retry: RetryPolicy,
    ) -> None:
        self.channel = (
            grpc.aio.insecure_channel(target, options=_CHANNEL_OPTIONS)
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, options=_CHANNEL_OPTIONS)
        )
        self._timeout_seconds = timeout_seconds
        self._retry = retry

    def attempts(self) -> Attempts:
        """Attempts of a new operation that may be repeated."""
        return Attempts(self._retry, self._timeout_seconds)

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT],
        request: RequestT,
        *,
        repeatable: bool = False,
    ) -> ResponseT:
        """One unary call. `repeatable` is for calls that change nothing."""
        attempts = self.attempts() if repeatable else Attempts(ONCE, self._timeout_seconds)
        while True:
            try:
                return await method(request, timeout=attempts.remaining_seconds())
            except grpc.aio.AioRpcError as error:
                await attempts.wait_after(from_rpc_error(error))

    async def stream(
        self, method: grpc.aio.UnaryStreamMultiCallable[RequestT, ResponseT], request: RequestT
    ) -> AsyncIterator[ResponseT]:
        """The answers of one call, which is not repeated."""
        try:
            async for response in method(request, timeout=self._timeout_seconds):
                yield response
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    async def send(
        self,
        method: grpc.aio.StreamUnaryMultiCallable[RequestT, ResponseT],
        requests: AsyncIterator[RequestT],
    ) -> ResponseT:
        """One call with a row of requests, which is not repeated."""
        try:
            return await method(requests, timeout=self._timeout_seconds)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
