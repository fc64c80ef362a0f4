"""The composition root: settings in, a running server out. `hope serve` calls main()."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import message_factory
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from hope.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    sessions_pb2,
    sessions_pb2_grpc,
)
from pydantic import ValidationError
from pydantic_settings import CliApp

from hope_runtime.checkpoints import load_model, written_texts_dir
from hope_runtime.checkpoints.fast_memory import shipped_fast_memory
from hope_runtime.device import Device
from hope_runtime.engine.base import SessionEngine
from hope_runtime.engine.hope_engine import HopeEngine
from hope_runtime.engine.prompt import chat_problems
from hope_runtime.engine.torch_engine import TorchEngine
from hope_runtime.engine.vllm.engine import VLLMEngine
from hope_runtime.errors import HopeError, UnsupportedModelError
from hope_runtime.learning.learner import Learner
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.hope.served import HopeModel
from server.app.base_models import telling_of_others
from server.app.jobs import Jobs
from server.app.limits import SessionLimits
from server.app.sessions import Sessions
from server.auth.access import (
    Authenticator,
    operator_authenticator,
    server_credentials,
    user_authenticator,
)
from server.crypto.files import KeyFileError
from server.crypto.keys import MasterKeyError
from server.grpc_api.admin import AdminService
from server.grpc_api.errors import ErrorInterceptor
from server.grpc_api.health import Health
from server.grpc_api.inference import InferenceService
from server.grpc_api.interceptors.identity import AuthInterceptor
from server.grpc_api.interceptors.metrics import MetricsInterceptor
from server.grpc_api.interceptors.request_log import RequestLogInterceptor
from server.grpc_api.sessions import SessionService
from server.grpc_api.turn_messages import MessageCodec
from server.settings import Settings
from server.store.base import StoreError
from server.store.factory import make_store
from server.telemetry.logs import configure
from server.telemetry.metrics import Metrics, MetricsPort
from server.telemetry.tracing import NO_TRACES, OtelTracer, sent_to

if TYPE_CHECKING:
    from server.http_api.server import HttpPort

_log = logging.getLogger(__name__)

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
# How long a server that was busy goes on saying why it refuses before it closes its port.
LINGER_SECONDS = 0.2
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


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that listens on `port`, for operators on `admin_port`, until `stop` is called."""

    port: int
    admin_port: int | None
    sessions: Sessions
    jobs: Jobs
    grpc_servers: Sequence[aio.Server]
    health: Health
    drain_seconds: float
    http: HttpPort | None = None
    # Where Prometheus scrapes; None when nobody asked for it.
    metrics_port: int | None = None

    async def stop(self) -> None:
        """Refuses new turns, finishes running ones, releases every session."""
        ends = time.monotonic() + self.drain_seconds
        await self.health.enter_graceful_shutdown()
        # Calls that come meanwhile hear why they are refused: once the gRPC server stops, some
        # would be cancelled without a word, which clients do not try again.
        was_busy, _ = await asyncio.gather(
            self.sessions.drain(self.drain_seconds), self.jobs.stop()
        )
        if was_busy:  # then calls may be on their way
            await asyncio.sleep(min(LINGER_SECONDS, max(0.0, ends - time.monotonic())))
        grace = max(0.0, ends - time.monotonic())
        stopping = [server.stop(grace) for server in self.grpc_servers]
        if self.http is not None:
            stopping.append(self.http.stop(grace))
        await asyncio.gather(*stopping)
        await self.sessions.stop()


def make_engine(settings: Settings, model: BaseModel | HopeModel) -> SessionEngine:
    """The engine that runs this kind of model. Raises ModelError."""
    if isinstance(model, HopeModel):
        if settings.engine == "vllm":
            raise UnsupportedModelError(
                "vLLM cannot serve HOPE models, whose memory updates while they read; use "
                "--engine torch"
            )
        return HopeEngine(model)
    fast_memory = shipped_fast_memory(model)
    learner = Learner(model, settings.threads, fast_memory, kept=written_texts_dir())
    if settings.engine == "vllm":
        return VLLMEngine(
            model,
            fast_memory=fast_memory,
            learner=learner,
            window_tokens=settings.window_tokens,
            threads=settings.threads,
            window_cache_bytes=settings.window_cache_bytes,
        )
    return TorchEngine(
        model,
        fast_memory=fast_memory,
        learner=learner,
        window_tokens=settings.window_tokens,
        threads=settings.threads,
        window_cache_bytes=settings.window_cache_bytes,
        memory_cache_bytes=settings.memory_cache_bytes,
    )


def session_limits(settings: Settings) -> SessionLimits:
    """The limits of sessions: settings of the same names."""
    return SessionLimits(
        **{each.name: getattr(settings, each.name) for each in fields(SessionLimits)}
    )


@contextlib.asynccontextmanager
async def running_server(
    settings: Settings,
    model: BaseModel | HopeModel,
    on_drain: Callable[[], None] = lambda: None,
    tracer: OtelTracer | None = None,
) -> AsyncIterator[RunningServer]:
    """Serves `model` as `settings` say; stops gracefully at the end of the block, which an operator
    asks for by `on_drain`. Spans go to `tracer`, by default where the settings say.

    Raises StoreError when the store cannot be opened, OSError when a port is taken or the packages
    for traces are missing, and KeyFileError or MasterKeyError for keys and certificates that cannot
    be used.
    """
    credentials, authenticate = server_credentials(settings), user_authenticator(settings)
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(make_store(settings))
        engine = stack.enter_context(make_engine(settings, model))
        metrics = Metrics()
        outer: list[aio.ServerInterceptor[Any, Any]] = [MetricsInterceptor(metrics)]
        if tracer is None and settings.otlp_endpoint is not None:
            tracer = stack.enter_context(sent_to(settings.otlp_endpoint))
        if tracer is not None:
            from server.grpc_api.interceptors.tracing import TracingInterceptor

            outer.insert(0, TracingInterceptor(tracer))
        sessions = Sessions(
            store,
            engine,
            session_limits(settings),
            replies=MessageCodec(),
            metrics=metrics,
            tracer=tracer or NO_TRACES,
        )
        metrics_port = None
        if settings.metrics_port is not None:
            metrics.watch(engine, sessions.residency)
            scraped = MetricsPort.open(metrics, settings.metrics_port, settings.metrics_host)
            metrics_port = stack.enter_context(scraped).port
        jobs = Jobs(sessions, checkpoint_seconds=settings.job_checkpoint_seconds)
        health = Health(sessions.store_watch, ("", *SERVICES))
        server = _grpc_server(settings, authenticate, *outer)
        inference, of_sessions = InferenceService(sessions), SessionService(sessions, jobs)
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(inference, server)
        sessions_pb2_grpc.add_SessionServiceServicer_to_server(of_sessions, server)
        servers, admin_server, admin_port = [server], None, None
        if settings.admin_token_file is not None:
            operators = operator_authenticator(settings.admin_token_file)
            admin_server = _grpc_server(settings, operators)
            servers.append(admin_server)
        # Users who must say who they are never reach it; whoever may be anybody may be an operator.
        host_of_admin = admin_server or (None if settings.authenticates else server)
        if host_of_admin is not None:
            admin_pb2_grpc.add_AdminServiceServicer_to_server(
                AdminService(sessions, settings.model, on_drain), host_of_admin
            )
        for each in servers:
            names = (() if each is admin_server else USER_SERVICES) + (
                (ADMIN_SERVICE,) if each is host_of_admin else ()
            )
            _add_health_and_reflection(each, health, names)
        port = _listen(server, settings.address, credentials)
        if admin_server is not None:
            admin_port = _listen(admin_server, settings.admin_address, credentials)
        for problem in chat_problems(model.tokenizer):
            _log.warning("%s: %s", settings.model, problem)
        await stack.enter_async_context(telling_of_others(sessions.base, store))
        await sessions.start()
        await jobs.start()
        for each in servers:
            await each.start()
        http = await _open_http(settings, sessions, authenticate, inference, of_sessions)
        await health.start()
        running = RunningServer(
            port,
            admin_port,
            sessions,
            jobs,
            servers,
            health,
            settings.drain_seconds,
            http,
            metrics_port,
        )
        try:
            yield running
        finally:
            await running.stop()


async def _open_http(
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


def _grpc_server(
    settings: Settings, authenticate: Authenticator, *outer: aio.ServerInterceptor[Any, Any]
) -> aio.Server:
    return aio.server(
        interceptors=[
            *([RequestLogInterceptor()] if settings.log_format == "json" else ()),
            *outer,
            ErrorInterceptor(),
            AuthInterceptor(authenticate),
        ],
        options=OPTIONS,
        maximum_concurrent_rpcs=settings.max_concurrent_rpcs,
    )


def _add_health_and_reflection(server: aio.Server, health: Health, services: Sequence[str]) -> None:
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    names = (health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
    reflection.enable_server_reflection((*services, *names), server)


def _listen(server: aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: {error}") from error


def _bytes(settings: Settings, model: BaseModel | HopeModel) -> str:
    """Bytes that serving takes at most, beside the working memory of a step."""
    weights = sum(tensor.nbytes for _, tensor in model.weights.named())
    parts = {
        "weights": weights,
        "windows": settings.window_cache_bytes,
        "adapters": settings.memory_cache_bytes,
    }
    return ", ".join(f"{name} {size / (1 << 20):,.0f} MiB" for name, size in parts.items())


async def serve(settings: Settings) -> None:
    """Serves until SIGTERM, SIGINT or an operator's Drain, then drains."""
    # vLLM, as it is installed here, decodes on the CPU.
    device = "cpu" if settings.engine == "vllm" and settings.device == "auto" else settings.device
    model = load_model(settings.model, dtype=settings.dtype, device=device, progress=_show_progress)
    chosen = Device.of(model, settings.threads)
    print(f"computes on {chosen.describe()}; {_bytes(settings, model)}", file=sys.stderr)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running_server(settings, model, stop.set) as running:
        host = settings.address.rsplit(":", 1)[0]
        if running.admin_port is not None:
            admin_host = settings.admin_address.rsplit(":", 1)[0]
            print(f"operators: {admin_host}:{running.admin_port}", flush=True)
        print(f"hope-server listens on {host}:{running.port}", flush=True)
        if running.http is not None:
            place = f"{running.http.scheme}://{host}:{running.http.port}"
            print(f"HTTP (OpenAI-compatible): {place}/v1", flush=True)
        if running.metrics_port is not None:
            print(
                f"metrics: http://{settings.metrics_host}:{running.metrics_port}/metrics",
                flush=True,
            )
        await stop.wait()
        print("draining", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of `hope serve`. Returns the exit status; expected errors are one line."""
    configure("text")
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        settings = CliApp.run(Settings, cli_args=arguments)
        configure(settings.log_format)
        asyncio.run(serve(settings))
    except ValidationError as error:
        for item in error.errors():
            where = "".join(f"{part}: " for part in item["loc"])
            print(f"hope serve: {where}{item['msg']}", file=sys.stderr)
        return 2
    except (HopeError, StoreError, KeyFileError, MasterKeyError, OSError) as error:
        print(f"hope serve: {error}", file=sys.stderr)
        return 1
    return 0


def _show_progress(fraction: float, text: str) -> None:
    print(f"{text}: {fraction:.0%}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
