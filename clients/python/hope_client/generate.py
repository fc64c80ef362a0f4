"""One generate turn: from request to stream of events, across as many calls as it takes.

Knows InferenceService.Generate; how a request looks to a caller is in `client.py`. The request_id
makes repeats harmless: a turn that the server committed is answered from what it stored, one that
it did not commit left no trace and runs again.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

from hope.v1 import inference_pb2 as pb

from hope_client.errors import HopeClientError, InternalError
from hope_client.events import GenerateEvent, Restarted, Resuming
from hope_client.transport import Transport

if TYPE_CHECKING:
    from hope.v1.inference_pb2_grpc import InferenceServiceAsyncStub


Content: TypeAlias = str | Sequence[pb.Message]
"""Content of a turn: the user's text, or messages of which the last is the user's."""


def messages_of(content: Content) -> Sequence[pb.Message]:
    """The messages of a turn."""
    if isinstance(content, str):
        return [pb.Message(role=pb.ROLE_USER, content=content)]
    return content


def repeatable(request: pb.GenerateRequest) -> pb.GenerateRequest:
    """`request` as it may be sent again after a call that broke: with a request_id, and a seed
    where chance decides and none was given. The answer of a kept version leaves nothing behind, so
    it needs no id.

    The seed follows from the id: the server would draw another one for every call, and so a turn
    that runs again would contradict what was shown of it.
    """
    request_id = request.request_id or uuid.uuid4().hex
    if not request.HasField("at_version"):
        request.request_id = request_id
    sampling = request.sampling
    if sampling.temperature and not sampling.HasField("seed"):
        sampling.seed = int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:8]) >> 1
    return request


class _Reply:
    """The text of a turn as its reader has seen it, whichever call it came from."""

    def __init__(self) -> None:
        self._shown = pb.TextDelta()
        self._told = pb.TextDelta()  # by the present call

    def begin_call(self) -> None:
        self._told = pb.TextDelta()

    def events(self, delta: pb.TextDelta) -> Iterator[GenerateEvent]:
        """Events for `delta`: none, if its text was shown before."""
        told, shown = self._told, self._shown
        told.text += delta.text
        told.tokens += delta.tokens
        if shown.text.startswith(told.text):
            return
        if not told.text.startswith(shown.text):
            yield Restarted()
            shown = pb.TextDelta()
        yield pb.TextDelta(
            text=told.text[len(shown.text) :], tokens=max(0, told.tokens - shown.tokens)
        )
        self._shown = pb.TextDelta(text=told.text, tokens=max(told.tokens, shown.tokens))

    def end(self) -> Iterator[GenerateEvent]:
        """Events for the end of the present call's text."""
        if self._shown.text != self._told.text:  # It stopped earlier than what was shown.
            self._shown = self._told
            yield Restarted()
            yield self._told


async def generate_events(
    transport: Transport, stub: InferenceServiceAsyncStub, request: pb.GenerateRequest
) -> AsyncGenerator[GenerateEvent, None]:
    """Events of the turn `request`, which is `repeatable`.

    A call that breaks, before or after some text was shown, is made again as it was; the reader
    gets the rest of the text, or hears that it is another one.

    Raises:
        HopeClientError: the turn was refused, or the attempts or the time are used up.
    """
    attempts = transport.attempts(repeatable=True)
    reply = _Reply()
    while True:
        reply.begin_call()
        result: pb.GenerateResult | None = None
        call = None
        try:
            with transport.translating():
                metadata = transport.metadata(request.session)
                call = stub.Generate(
                    request, timeout=attempts.remaining_seconds(), metadata=metadata
                )
                async for response in call:
                    match response.WhichOneof("event"):
                        case "status":
                            yield response.status
                        case "delta":
                            for event in reply.events(response.delta):
                                yield event
                        case "result":
                            result = response.result
        except HopeClientError as error:
            # Once the turn was acknowledged, how the stream closed does not matter.
            if result is None:
                delay = attempts.delay_after(error)
                yield Resuming(error, delay)
                await asyncio.sleep(delay)
                continue
        finally:
            if call is not None:
                call.cancel()
        if result is None:
            raise InternalError("the server ended the stream without a result")
        for event in reply.end():
            yield event
        yield result
        return
