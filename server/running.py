"""The composition root: settings and a model in, a running server out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any

from grpc import aio
from hope.v1 import admin_pb2_grpc, inference_pb2_grpc, sessions_pb2_grpc

from hope_runtime.checkpoints import written_texts_dir
from hope_runtime.checkpoints.fast_memory import shipped_fast_memory
from hope_runtime.device import Device
from hope_runtime.engine.adapter_engine import bytes_for_windows
from hope_runtime.engine.base import SessionEngine
from hope_runtime.engine.hope_engine import HopeEngine
from hope_runtime.engine.prompt import chat_problems
from hope_runtime.engine.torch_engine import TorchEngine, adapter_bytes
from hope_runtime.engine.vllm.engine import VLLMEngine
from hope_runtime.errors import UnsupportedModelError
from hope_runtime.learning.learner import Learner
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.hope.served import HopeModel
from server.app.base_models import telling_of_others
from server.app.jobs import Jobs
from server.app.limits import SessionLimits
from server.app.sessions import Sessions
from server.auth.access import operator_authenticator, server_credentials, user_authenticator
from server.gateway import open_http
from server.grpc_api.admin import AdminService
from server.grpc_api.health import Health
from server.grpc_api.inference import InferenceService
from server.grpc_api.interceptors.metrics import MetricsInterceptor
from server.grpc_api.server import (
    ADMIN_SERVICE,
    SERVICES,
    USER_SERVICES,
    add_health_and_reflection,
    listen,
    make_server,
)
from server.grpc_api.sessions import SessionService
from server.grpc_api.turn_messages import MessageCodec
from server.settings import Settings
from server.store.factory import make_store
from server.telemetry.metrics import Metrics, MetricsPort
from server.telemetry.tracing import NO_TRACES, OtelTracer, sent_to

if TYPE_CHECKING:
    from server.http_api.server import HttpPort

_log = logging.getLogger(__name__)

# How long a server that was busy goes on saying why it refuses before it closes its port.
LINGER_SECONDS = 0.2


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


def window_bytes(settings: Settings, model: BaseModel) -> int:
    """Bytes for windows, as settings say or as the device has them free. Raises ModelError."""
    if settings.window_cache_bytes != "auto":
        return settings.window_cache_bytes
    reserved = adapter_bytes(model, settings.memory_cache_bytes)
    return bytes_for_windows(Device.of(model, settings.threads), reserved)


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
            window_cache_bytes=window_bytes(settings, model),
        )
    return TorchEngine(
        model,
        fast_memory=fast_memory,
        learner=learner,
        window_tokens=settings.window_tokens,
        threads=settings.threads,
        window_cache_bytes=window_bytes(settings, model),
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
        made = partial(
            make_server,
            max_concurrent_rpcs=settings.max_concurrent_rpcs,
            logs_requests=settings.log_format == "json",
        )
        server = made(authenticate, *outer)
        inference, of_sessions = (
            InferenceService(sessions, jobs.background),
            SessionService(sessions, jobs),
        )
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(inference, server)
        sessions_pb2_grpc.add_SessionServiceServicer_to_server(of_sessions, server)
        servers, admin_server, admin_port = [server], None, None
        if settings.admin_token_file is not None:
            operators = operator_authenticator(settings.admin_token_file)
            admin_server = made(operators)
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
            add_health_and_reflection(each, health, names)
        port = listen(server, settings.address, credentials)
        if admin_server is not None:
            admin_port = listen(admin_server, settings.admin_address, credentials)
        for problem in chat_problems(model.tokenizer):
            _log.warning("%s: %s", settings.model, problem)
        await stack.enter_async_context(telling_of_others(sessions.base, store))
        await sessions.start()
        await jobs.start()
        for each in servers:
            await each.start()
        http = await open_http(settings, sessions, authenticate, inference, of_sessions)
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
