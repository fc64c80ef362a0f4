"""Base of the interceptors: one context manager around every call, whichever way it streams."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import grpc
from grpc import aio

if TYPE_CHECKING:
    _Interceptor = aio.ServerInterceptor[Any, Any]
else:
    _Interceptor = aio.ServerInterceptor

Context = aio.ServicerContext[Any, Any]
# Probes of load balancers and orchestrators, and of people who look around.
HEALTH = "/grpc.health.v1.Health/"
PROBES = (HEALTH, "/grpc.reflection.")


class Observer:
    """Messages of one call as they pass. This one looks at nothing."""

    def reads(self, request: Any) -> Any:
        """The request, or the stream of them, as the handler gets it."""
        return request

    def saw(self, response: Any) -> None:
        """Take a response that is about to be sent."""


Around = Callable[[Context], AbstractAsyncContextManager[Observer]]


class CallInterceptor(_Interceptor):
    """Puts `around` around every call of the methods that it `covers`."""

    def covers(self, path: str) -> bool:
        """Whether the method at `path`, such as /hope.v1.AdminService/Drain, is intercepted."""
        return True

    @abstractmethod
    def around(self, path: str, context: Context) -> AbstractAsyncContextManager[Observer]:
        """The block that a call runs in. It sees the error that ends the call, a CancelledError or
        GeneratorExit when the client went away."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        path = handler_call_details.method
        if handler is None or not self.covers(path):
            return handler
        streams_in, streams_out = handler.request_streaming, handler.response_streaming
        kind = f"{'stream' if streams_in else 'unary'}_{'stream' if streams_out else 'unary'}"
        wrap = _streaming if streams_out else _single
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(
            wrap(getattr(handler, kind), lambda context: self.around(path, context)),
            handler.request_deserializer,
            handler.response_serializer,
        )


def _single(call: Callable[..., Awaitable[Any]], around: Around) -> Callable[..., Awaitable[Any]]:
    async def handle(request: Any, context: Context) -> Any:
        async with around(context) as observer:
            response = await call(observer.reads(request), context)
            observer.saw(response)
            return response

    return handle


def _streaming(
    call: Callable[..., AsyncIterator[Any]], around: Around
) -> Callable[..., AsyncIterator[Any]]:
    async def handle(request: Any, context: Context) -> AsyncIterator[Any]:
        async with around(context) as observer:
            async for response in call(observer.reads(request), context):
                observer.saw(response)
                yield response

    return handle
