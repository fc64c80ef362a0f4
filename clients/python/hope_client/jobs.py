"""Jobs of the server, which go on without the client that began them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from hope.v1 import sessions_pb2 as pb

from hope_client.errors import AbortedError, HopeClientError, InternalError
from hope_client.transport import Transport

if TYPE_CHECKING:
    import grpc

OnJob = Callable[[pb.Job], None]
JobRequestT = TypeVar(
    "JobRequestT", pb.ForgetDocumentRequest, pb.ForgetStatementsRequest, pb.MigrateSessionRequest
)
JobResponseT = TypeVar(
    "JobResponseT",
    pb.ForgetDocumentResponse,
    pb.ForgetStatementsResponse,
    pb.MigrateSessionResponse,
)


async def run_job(
    transport: Transport,
    method: grpc.aio.UnaryStreamMultiCallable[JobRequestT, JobResponseT],
    request: JobRequestT,
    get: Callable[[str], Awaitable[pb.Session]],
    on_progress: OnJob,
) -> pb.Session:
    """Begins or joins a job and watches it to its end, across broken connections.

    `get` reads the session, which tells how a job ended while nobody watched. Raises
    HopeClientError.
    """
    attempts = transport.attempts(repeatable=True)
    version = (await get(request.name)).memory_version
    seen = False
    while True:
        try:
            if seen and not (now := await get(request.name)).HasField("job"):
                if now.memory_version > version:
                    return now  # it ended while nobody watched
                raise AbortedError("the job was ended by another call")
            async for response in transport.stream(method, request):
                if response.WhichOneof("event") == "session":
                    return response.session
                seen = True
                attempts.succeeded()
                on_progress(response.job)
            raise InternalError("the server ended the stream before the job ended")
        except HopeClientError as error:
            await asyncio.sleep(attempts.delay_after(error))
