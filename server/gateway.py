"""The HTTP gateway over the application and over the methods of the gRPC services."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from google.protobuf import message_factory
from hope.v1 import inference_pb2, sessions_pb2

from server.app.sessions import Sessions
from server.auth.access import Authenticator
from server.grpc_api.inference import InferenceService
from server.grpc_api.sessions import SessionService
from server.settings import Settings

if TYPE_CHECKING:
    from server.http_api.server import HttpPort


async def open_http(
    settings: Settings,
    sessions: Sessions,
    authenticate: Authenticator,
    inference: InferenceService,
    of_sessions: SessionService,
) -> HttpPort | None:
    """The port of the HTTP gateway, if it is asked for. Raises OSError."""
    if settings.http_port is None:
        return None
    try:
        from server.http_api.app import make_app
        from server.http_api.models import base_model_id
        from server.http_api.native import Method
        from server.http_api.requests import LOOPBACK_HOSTS, Gate
        from server.http_api.server import HttpPort
    except ImportError:
        raise OSError("the HTTP port needs its packages: pip install 'hope-server[http]'") from None
    methods = {}
    for module, service in ((inference_pb2, inference), (sessions_pb2, of_sessions)):
        for described in module.DESCRIPTOR.services_by_name.values():
            for each in described.methods:
                # Callers' contexts, which these methods do not look at, are gRPC's.
                call = partial(getattr(service, each.name), context=None)
                kind = message_factory.GetMessageClass(each.input_type)
                methods[each.name] = Method(kind, call, each.server_streaming)
    hosts = (*LOOPBACK_HOSTS, settings.host, *_listed(settings.http_hosts))
    app = make_app(
        sessions,
        Gate(
            authenticate,
            None if settings.authenticates else hosts,
            _listed(settings.http_cors_origins),
        ),
        base_model_id(settings.model),
        methods,
        max_requests=settings.max_concurrent_rpcs,
        logs_requests=settings.log_format == "json",
    )
    certificate = None
    if settings.tls_cert_file and settings.tls_key_file:
        certificate = (settings.tls_cert_file, settings.tls_key_file)
    return await HttpPort.open(app, settings.host, settings.http_port, certificate=certificate)


def _listed(text: str) -> tuple[str, ...]:
    """The parts of a list apart by commas."""
    return tuple(part for each in text.split(",") if (part := each.strip()))
