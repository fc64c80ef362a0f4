"""The caller of each gRPC call, established before its handler runs.

Reads metadata and certificates of calls. server/auth checks them and says which names a caller may
use; grpc_api/errors.py translates the exceptions.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc
from grpc import aio

from server.auth.access import Authenticator, Credentials
from server.auth.caller import set_caller
from server.grpc_api.interceptors.base import wrapped

Context = aio.ServicerContext[Any, Any]

# Load balancers and orchestrators probe it without credentials; it tells them nothing else.
_OPEN = "/grpc.health.v1.Health/"


def credentials_of(context: Context) -> Credentials:
    """The credentials that a call came with."""
    return Credentials(
        authorization=tuple(
            value for key, value in context.invocation_metadata() or () if key == "authorization"
        ),
        certificate_names=tuple(context.auth_context().get("x509_common_name", ())),
    )


if TYPE_CHECKING:
    _Interceptor = aio.ServerInterceptor[Any, Any]
else:
    _Interceptor = aio.ServerInterceptor


class AuthInterceptor(_Interceptor):
    """Sets the caller of every call but those of the health service."""

    def __init__(self, authenticate: Authenticator) -> None:
        self._authenticate = authenticate

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith(_OPEN):
            return handler
        return wrapped(handler, self._single, self._streaming)

    def _single(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def handle(request: Any, context: Context) -> Any:
            set_caller(self._authenticate(credentials_of(context)))
            return await call(request, context)

        return handle

    def _streaming(
        self, call: Callable[..., AsyncIterator[Any]]
    ) -> Callable[..., AsyncIterator[Any]]:
        async def handle(request: Any, context: Context) -> AsyncIterator[Any]:
            set_caller(self._authenticate(credentials_of(context)))
            async for response in call(request, context):
                yield response

        return handle
