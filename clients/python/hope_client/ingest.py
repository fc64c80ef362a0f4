"""Reading a document into a session, across as many connections as it takes.

Knows InferenceService.Ingest and how to resume it; where bytes come from is in
`sources.py`. The server is the judge of what is durable: after a broken call it
is asked how far the document came, and the next call starts there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, TypedDict

import grpc
from hope.v1 import inference_pb2 as pb

from hope_client import content
from hope_client.errors import (
    AbortedError,
    FailedPreconditionError,
    HopeClientError,
    InternalError,
    InvalidRequestError,
    OutOfRangeError,
    UnavailableError,
)
from hope_client.events import IngestEvent, Resuming
from hope_client.sessions import Sessions
from hope_client.sources import ByteSource, SourceEndsError
from hope_client.transport import Attempts, RetryPolicy, Transport

if TYPE_CHECKING:
    from hope.v1.inference_pb2_grpc import InferenceServiceAsyncStub


class IngestOptions(TypedDict, total=False):
    """Options of HopeClient.ingest_events, which describes them."""

    document: str
    conversation: str
    learn: bool | None
    budget: float | None
    detach: bool
    end_of_document: bool
    source_offset_bytes: int
    resume_at_bytes: int | None
    chunk_bytes: int


RESUME = RetryPolicy(attempts=10, maximum_seconds=4.0, patience_seconds=60.0)
"""Patient: at least a minute without any progress, enough for a server to restart."""

DIFFERS = "DOCUMENT_DIFFERS"
"""Reason of a refusal: under that name the session read something else."""


# With these a server may refuse an offset, depending on what it compared it with.
_OFFSET_REFUSALS = (AbortedError, FailedPreconditionError, InvalidRequestError, OutOfRangeError)

# What grpcio makes of a status that arrives while a write fails: the status is
# lost (grpc/grpc issue 36066). The call is then taken up again, and writing
# after a pause, so that a server that refuses it is heard this time.
_STATUS_LOST = "Internal error from Core"
_LISTEN_SECONDS = 0.1


class _StatusLostError(UnavailableError):
    """The call ended while it was written to, and nobody knows why."""


async def ingest_events(
    transport: Transport,
    stub: InferenceServiceAsyncStub,
    sessions: Sessions,
    start: pb.IngestStart,
    source: ByteSource,
    *,
    keep_open: bool,
    chunk_bytes: int,
    retry: RetryPolicy = RESUME,
) -> AsyncGenerator[IngestEvent, None]:
    """Events of reading `source` from `start.offset_bytes` to its end.

    `tokens` in the events count from the first call on. Those that the server
    committed but could not report before a call broke are not among them.
    """
    attempts = Attempts(retry, repeatable=True)
    committed = start.offset_bytes
    earlier_tokens = tokens = 0  # of broken calls, and of the present one
    listening = False
    while True:
        source.release(committed)
        start.offset_bytes = committed
        start.content_digest = await _digest(source, start.document, committed)
        try:
            call = _one_call(
                transport,
                stub,
                start,
                source,
                keep_open=keep_open,
                chunk_bytes=chunk_bytes,
                listen_seconds=_LISTEN_SECONDS if attempts.failures or listening else 0.0,
            )
            async with contextlib.aclosing(call):
                async for event in call:
                    if isinstance(event, pb.IngestProgress):
                        tokens = event.tokens
                        event.tokens += earlier_tokens
                        if event.committed_bytes > committed:
                            committed = event.committed_bytes
                            source.release(committed)
                            attempts.succeeded()
                    elif isinstance(event, pb.IngestResult):
                        event.tokens += earlier_tokens
                    yield event
            return
        except HopeClientError as call_error:
            error = call_error
        unheard = isinstance(error, _StatusLostError) and committed == start.offset_bytes
        if unheard and not (attempts.failures or listening):
            listening = True  # Most likely it was refused: to be told why, ask at once.
            continue
        refused = (
            (attempts.failures > 0 or listening)
            and isinstance(error, _OFFSET_REFUSALS)
            and error.reason != DIFFERS
        )
        if refused and attempts.failures == 0:
            document = await sessions.document(start.session, start.document)
            if document is None or document.committed_bytes <= committed:
                raise error  # The lost call committed nothing, so the offset was wrong.
        while True:
            delay = attempts.delay_after(error, anyway=refused)
            yield Resuming(error, delay)
            await asyncio.sleep(delay)
            try:
                document = await sessions.document(start.session, start.document)
                break
            except HopeClientError as lookup_error:  # the server is not back yet
                error = lookup_error
        if document is not None:
            if refused and document.committed_bytes == start.offset_bytes and not document.ended:
                # The offset was right, so it was something else that was refused.
                raise error
            committed = document.committed_bytes
        earlier_tokens += tokens
        tokens = 0
        if document is not None and (
            document.ended or (keep_open and not await source.read(committed, 1))
        ):
            # Only the acknowledgement was lost.
            session = await sessions.get(start.session)
            yield pb.IngestResult(
                committed_bytes=committed,
                tokens=earlier_tokens,
                memory_version=session.memory_version,
                ended=document.ended,
            )
            return


async def _digest(source: ByteSource, document: str, committed: int) -> bytes:
    """Digest of what the source has of the committed bytes.

    Raises:
        FailedPreconditionError: it has fewer.
    """
    try:
        return await source.digest(committed) if committed else b""
    except SourceEndsError as error:
        raise FailedPreconditionError(
            f"the session has a different document '{document}' with {committed} committed bytes; "
            f"this one has {error.args[0]}",
            reason=DIFFERS,
        ) from None


async def _one_call(
    transport: Transport,
    stub: InferenceServiceAsyncStub,
    start: pb.IngestStart,
    source: ByteSource,
    *,
    keep_open: bool,
    chunk_bytes: int,
    listen_seconds: float,
) -> AsyncGenerator[pb.StatusUpdate | pb.IngestProgress | pb.IngestResult, None]:
    """One Ingest call from `start.offset_bytes` on; chunks follow `listen_seconds` after `start`.

    Raises:
        HopeClientError: the call failed.
        Exception: what the source raised.
    """
    with transport.translating():
        call = stub.Ingest(None, metadata=transport.metadata(start.session))
    failure: Exception | None = None  # of the source

    async def write() -> None:
        nonlocal failure
        offset = start.offset_bytes
        try:
            await call.write(pb.IngestRequest(start=start))
            await asyncio.sleep(listen_seconds)
            while True:
                try:
                    chunk = await source.read(offset, chunk_bytes)
                except Exception as error:
                    failure = error
                    call.cancel()
                    return
                if not chunk:
                    break
                # Returns when the connection has taken the message, so this loop
                # is never ahead of the server by more than HTTP/2's windows.
                await call.write(pb.IngestRequest(chunk=chunk))
                offset += len(chunk)
            # Without it the server would take the end of the stream for a broken connection.
            try:
                digest = await source.digest(offset)
            except SourceEndsError:  # cut off meanwhile, so that it is another one
                digest = content.digest(content.EMPTY)
            end = pb.IngestEnd(keep_open=keep_open, content_digest=digest)
            await call.write(pb.IngestRequest(end=end))
            await call.done_writing()
        except (grpc.aio.AioRpcError, grpc.aio.BaseError, asyncio.InvalidStateError):
            pass  # The call is over; its status reaches the reading side.

    writer = asyncio.create_task(write())
    result: pb.IngestResult | None = None
    try:
        with transport.translating():
            async for response in call:
                match response.WhichOneof("event"):
                    case "status":
                        yield response.status
                    case "progress":
                        yield response.progress
                    case "result":
                        result = response.result
    except asyncio.CancelledError:
        if failure is None:
            raise
        raise failure from None
    except HopeClientError as error:
        # Once it was acknowledged, how the stream closed does not matter.
        if result is None:
            if error.code is grpc.StatusCode.INTERNAL and str(error) == _STATUS_LOST:
                error = _StatusLostError("the call failed while it was being written")
            raise error from error.__cause__
    finally:
        call.cancel()
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
    if result is None:
        raise InternalError("the server ended the stream without a result")
    yield result
