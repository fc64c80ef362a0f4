"""The caller of each gRPC call, established before its handler runs.

Reads metadata and certificates of calls. server/auth checks them and says which names a caller may
use; grpc_api/errors.py translates the exceptions.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from server.auth.access import Authenticator, Credentials
from server.auth.caller import set_caller
from server.grpc_api.interceptors.base import HEALTH, CallInterceptor, Context, Observer


def credentials_of(context: Context) -> Credentials:
    """The credentials that a call came with."""
    return Credentials(
        authorization=tuple(
            value for key, value in context.invocation_metadata() or () if key == "authorization"
        ),
        certificate_names=tuple(context.auth_context().get("x509_common_name", ())),
    )


class AuthInterceptor(CallInterceptor):
    """Sets the caller of every call but those of the health service."""

    def __init__(self, authenticate: Authenticator) -> None:
        self._authenticate = authenticate

    def covers(self, path: str) -> bool:
        # Load balancers probe it without credentials; it tells them nothing else.
        return not path.startswith(HEALTH)

    @asynccontextmanager
    async def around(self, path: str, context: Context) -> AsyncIterator[Observer]:
        set_caller(self._authenticate(credentials_of(context)))
        yield Observer()
