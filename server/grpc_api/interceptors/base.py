"""Handlers within handlers: what an interceptor puts around every method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc


def wrapped(
    handler: Any, single: Callable[[Any], Any], streaming: Callable[[Any], Any]
) -> grpc.RpcMethodHandler:  # type: ignore[type-arg]
    """The handler with `single` or `streaming`, after how it answers, around its function."""
    streams_in, streams_out = handler.request_streaming, handler.response_streaming
    kind = f"{'stream' if streams_in else 'unary'}_{'stream' if streams_out else 'unary'}"
    around = streaming if streams_out else single
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    return make(  # type: ignore[no-any-return]
        around(getattr(handler, kind)), handler.request_deserializer, handler.response_serializer
    )
