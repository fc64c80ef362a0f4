"""Every call says who it comes from before its handler runs, or never reaches it.

Knows metadata and certificates; what a token must be is in tokens.py, which names a caller may
speak of in caller.py. Errors leave as exceptions, which services/errors.py puts on the wire.
"""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

import grpc
from grpc import aio

from server.auth.caller import ANYBODY, USER_ID, Caller, set_caller
from server.auth.tokens import TokenVerifier, UnauthenticatedError
from server.grpc_api.interceptors.base import wrapped

Context = aio.ServicerContext[Any, Any]

# Load balancers and orchestrators ask it and have no credential; it tells them nothing else.
_OPEN = "/grpc.health.v1.Health/"
_SCHEME = "bearer "


class Authenticator(Protocol):
    """Says who a call comes from. Raises UnauthenticatedError."""

    def __call__(self, context: Context) -> Caller: ...


def anybody(context: Context) -> Caller:
    """Without authentication, on loopback: names in requests are believed."""
    return ANYBODY


def by_token(verifier: TokenVerifier) -> Authenticator:
    """The user is the subject of the bearer token."""

    def authenticate(context: Context) -> Caller:
        return Caller(verifier.user(_bearer_token(context)))

    return authenticate


def by_certificate(context: Context) -> Caller:
    """The user is the common name of the client's certificate, which TLS has verified."""
    names = list(context.auth_context().get("x509_common_name", ()))
    user = names[0].decode(errors="replace") if len(names) == 1 else ""
    if not USER_ID.fullmatch(user):
        raise UnauthenticatedError(
            "the common name of the client certificate is not a valid user id"
        )
    return Caller(user)


def by_operator_token(expected: bytes) -> Authenticator:
    """Whoever has this token is an operator, who may speak of every user's names."""

    def authenticate(context: Context) -> Caller:
        if not hmac.compare_digest(_bearer_token(context).encode(), expected):
            raise UnauthenticatedError("the bearer token is not the operator token of this server")
        return ANYBODY

    return authenticate


def _bearer_token(context: Context) -> str:
    found = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
    if len(found) != 1 or not isinstance(found[0], str):
        raise UnauthenticatedError(
            "a bearer token is required; send the metadata 'authorization: Bearer TOKEN'"
        )
    if not found[0][: len(_SCHEME)].lower() == _SCHEME:
        raise UnauthenticatedError("the metadata 'authorization' must have the form 'Bearer TOKEN'")
    return found[0][len(_SCHEME) :].strip()


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
            set_caller(self._authenticate(context))
            return await call(request, context)

        return handle

    def _streaming(
        self, call: Callable[..., AsyncIterator[Any]]
    ) -> Callable[..., AsyncIterator[Any]]:
        async def handle(request: Any, context: Context) -> AsyncIterator[Any]:
            set_caller(self._authenticate(context))
            async for response in call(request, context):
                yield response

        return handle
