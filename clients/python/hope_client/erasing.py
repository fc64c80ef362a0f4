"""Calls that erase something, repeated until it is gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hope_client.errors import NotFoundError
from hope_client.transport import RequestT, ResponseT, Transport

if TYPE_CHECKING:
    import grpc


async def erase(
    transport: Transport,
    method: grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT],
    request: RequestT,
) -> None:
    """One call that erases what `request` names. Raises NotFoundError when it was gone before."""
    attempts = transport.attempts(repeatable=True)
    try:
        await transport.call(method, request, attempts=attempts)
    except NotFoundError:
        # An attempt whose answer was lost may have erased it; either way it is gone.
        if not attempts.failures:
            raise
