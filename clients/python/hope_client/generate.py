"""One generate turn: from request to stream of events, tried again only where that is harmless.

Knows InferenceService.Generate; how a request looks to a caller is in `client.py`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, TypeAlias

import grpc
from hope.v1 import inference_pb2 as pb

from hope_client.errors import InternalError, from_rpc_error
from hope_client.transport import Transport

if TYPE_CHECKING:
    from hope.v1.inference_pb2_grpc import InferenceServiceAsyncStub

GenerateEvent: TypeAlias = pb.StatusUpdate | pb.TextDelta | pb.GenerateResult
"""What a turn tells: that it waits, a piece of text, or (last) that it is durable."""


async def generate_events(
    transport: Transport, stub: InferenceServiceAsyncStub, request: pb.GenerateRequest
) -> AsyncGenerator[GenerateEvent, None]:
    """Events of the turn `request`, which carries a request_id.

    An unavailable server is asked again while no text was shown: the id makes
    the server answer a turn that it already ran from what it stored. Once text
    was shown, a second reply could differ from it, so the error is raised.
    """
    attempts = transport.attempts()
    while True:
        shown = finished = False
        call = stub.Generate(request, timeout=attempts.remaining_seconds())
        try:
            async for response in call:
                match response.WhichOneof("event"):
                    case "status":
                        yield response.status
                    case "delta":
                        shown = True
                        yield response.delta
                    case "result":
                        finished = True
                        yield response.result
        except grpc.aio.AioRpcError as rpc_error:
            if finished:  # The turn was acknowledged; how the stream closed does not matter.
                return
            error = from_rpc_error(rpc_error)
            if shown:
                raise error from rpc_error
            await attempts.wait_after(error)
            continue
        finally:
            call.cancel()
        if not finished:
            raise InternalError("The server ended the stream without a result")
        return
