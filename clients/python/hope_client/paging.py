"""Lists that the server gives page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, TypeVar

from hope.v1 import sessions_pb2 as pb

from hope_client.transport import Transport

if TYPE_CHECKING:
    import grpc


RequestT = TypeVar(
    "RequestT",
    pb.ListSessionsRequest,
    pb.ListSnapshotsRequest,
    pb.ListConsolidationsRequest,
    pb.ListStatementsRequest,
)
PageT = TypeVar(
    "PageT",
    pb.ListSessionsResponse,
    pb.ListSnapshotsResponse,
    pb.ListConsolidationsResponse,
    pb.ListStatementsResponse,
)


async def pages(
    transport: Transport,
    method: grpc.aio.UnaryUnaryMultiCallable[RequestT, PageT],
    request: RequestT,
) -> AsyncIterator[PageT]:
    """Pages of a list from the one that `request` asks for, each fetched on demand."""
    while True:
        page = await transport.call(method, request, repeatable=True)
        yield page
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token
