"""gRPC servers: their options, their interceptors, and the services every one of them has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from hope.v1 import admin_pb2, inference_pb2, sessions_pb2

from server.auth.access import Authenticator
from server.grpc_api.errors import ErrorInterceptor
from server.grpc_api.health import Health
from server.grpc_api.interceptors.identity import AuthInterceptor
from server.grpc_api.interceptors.request_log import RequestLogInterceptor

USER_SERVICES = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in ((inference_pb2, "InferenceService"), (sessions_pb2, "SessionService"))
)
ADMIN_SERVICE = admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name
SERVICES = (*USER_SERVICES, ADMIN_SERVICE)
# The largest chunk of an ingest is 1 MiB; gRPC's own limit leaves room around it.
MAX_MESSAGE_BYTES = 4 << 20
# Below what any common client or proxy can be set to.
MIN_PING_INTERVAL_MS = 500
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # Meshes, proxies and clients ping an idle connection every few seconds, some of them (.NET)
    # every second, with or without a call on it. By default gRPC takes that for an attack and
    # closes the connection under a turn that waits for learning. Faster pings still end it.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
    # A second server on the same port would take half of the calls.
    ("grpc.so_reuseport", 0),
)


def make_server(
    authenticate: Authenticator,
    *outer: aio.ServerInterceptor[Any, Any],
    max_concurrent_rpcs: int,
    logs_requests: bool,
) -> aio.Server:
    """A server whose callers `authenticate` knows; `outer` interceptors see every call, also one
    that is refused."""
    return aio.server(
        interceptors=[
            *([RequestLogInterceptor()] if logs_requests else ()),
            *outer,
            ErrorInterceptor(),
            AuthInterceptor(authenticate),
        ],
        options=OPTIONS,
        maximum_concurrent_rpcs=max_concurrent_rpcs,
    )


def add_health_and_reflection(server: aio.Server, health: Health, services: Sequence[str]) -> None:
    """Adds the health service, and reflection of it and of `services`."""
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    names = (health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
    reflection.enable_server_reflection((*services, *names), server)


def listen(server: aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    """Opens the port of `address` and returns its number. Raises OSError."""
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: {error}") from error
