"""The composition root: settings in, a running server out. `hope serve` calls main()."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
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

from hope_runtime.checkpoints import load_model
from hope_runtime.checkpoints.branch import shipped_branch
from hope_runtime.engine.base import SessionEngine
from hope_runtime.engine.engine import Engine
from hope_runtime.engine.native import NativeEngine
from hope_runtime.errors import HopeError
from hope_runtime.model.weights import BaseModel
from hope_runtime.native.served import NativeModel
from server.jobs import Jobs
from server.metrics import Metrics, MetricsPort
from server.services.admin import AdminService
from server.services.errors import ErrorInterceptor
from server.services.inference import InferenceService
from server.services.measuring import MeasuringInterceptor
from server.services.sessions import SessionService
from server.sessions import Sessions
from server.settings import Settings
from server.store.base import StoreError
from server.store.sqlite import SQLiteStore

_log = logging.getLogger(__name__)

SERVICES = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (inference_pb2, "InferenceService"),
        (sessions_pb2, "SessionService"),
        (admin_pb2, "AdminService"),
    )
)
# The largest chunk of an ingest is 1 MiB; gRPC's own limit leaves room around it.
MAX_MESSAGE_BYTES = 4 << 20
# How long a server that was busy goes on saying why it refuses before it closes its port.
LINGER_SECONDS = 0.2
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
    # A second server on the same port would take half of the calls.
    ("grpc.so_reuseport", 0),
)


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that listens on `port` until `stop` is called."""

    port: int
    sessions: Sessions
    jobs: Jobs
    grpc_server: aio.Server
    health: HealthServicer
    drain_seconds: float
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
        await self.grpc_server.stop(max(0.0, ends - time.monotonic()))
        await self.sessions.stop()


def make_engine(settings: Settings, model: BaseModel | NativeModel) -> SessionEngine:
    """The engine that runs this kind of model. Raises ModelError."""
    if isinstance(model, NativeModel):
        return NativeEngine(model)
    return Engine(
        model,
        branch=shipped_branch(model),
        window_tokens=settings.window_tokens,
        threads=settings.threads,
        window_cache_bytes=settings.window_cache_bytes,
        memory_cache_bytes=settings.memory_cache_bytes,
    )


@contextlib.asynccontextmanager
async def running_server(
    settings: Settings, model: BaseModel | NativeModel
) -> AsyncIterator[RunningServer]:
    """Serves `model` as `settings` say; stops gracefully at the end of the block.

    Raises StoreError when the store cannot be opened and OSError when the port is taken.
    """
    settings.database.parent.mkdir(parents=True, exist_ok=True)
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(SQLiteStore(settings.database))
        engine = stack.enter_context(make_engine(settings, model))
        metrics = Metrics()
        sessions = Sessions(
            store,
            engine,
            lease_seconds=settings.lease_seconds,
            idle_learning_seconds=settings.idle_learning_seconds,
            resident_sessions=settings.resident_sessions,
            keep_versions=settings.keep_versions,
            session_quota_bytes=settings.session_quota_bytes,
            user_quota_bytes=settings.user_quota_bytes,
            metrics=metrics,
        )
        metrics_port = None
        if settings.metrics_port is not None:
            metrics.watch(engine, sessions.residency)
            scraped = MetricsPort.open(metrics, settings.metrics_port)
            metrics_port = stack.enter_context(scraped).port
        jobs = Jobs(sessions, checkpoint_seconds=settings.job_checkpoint_seconds)
        health = HealthServicer()
        server = aio.server(
            interceptors=[MeasuringInterceptor(metrics), ErrorInterceptor()],
            options=OPTIONS,
            maximum_concurrent_rpcs=settings.max_concurrent_rpcs,
        )
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(
            InferenceService(sessions, stalled_stream_seconds=settings.stalled_stream_seconds),
            server,
        )
        sessions_pb2_grpc.add_SessionServiceServicer_to_server(
            SessionService(sessions, jobs), server
        )
        # What it leaves out is answered UNIMPLEMENTED by its generated base.
        admin_pb2_grpc.add_AdminServiceServicer_to_server(
            AdminService(sessions, settings.model),  # type: ignore[abstract]
            server,
        )
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        reflection.enable_server_reflection(
            (
                *SERVICES,
                health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
                reflection.SERVICE_NAME,
            ),
            server,
        )
        try:
            port = server.add_insecure_port(settings.address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {settings.address}: {error}") from error
        await sessions.start()
        await jobs.start()
        await server.start()
        for name in ("", *SERVICES):
            await health.set(name, health_pb2.HealthCheckResponse.SERVING)
        running = RunningServer(
            port, sessions, jobs, server, health, settings.drain_seconds, metrics_port
        )
        try:
            yield running
        finally:
            await running.stop()


async def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT, then drains."""
    model = load_model(settings.model, dtype=settings.dtype, progress=_show_progress)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running_server(settings, model) as running:
        host = settings.address.rsplit(":", 1)[0]
        print(f"hope-server listens on {host}:{running.port}", flush=True)
        if running.metrics_port is not None:
            print(f"metrics: http://127.0.0.1:{running.metrics_port}/metrics", flush=True)
        await stop.wait()
        print("draining", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of `hope serve`. Returns the exit status; expected errors are one line."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        settings = CliApp.run(Settings, cli_args=arguments)
        asyncio.run(serve(settings))
    except ValidationError as error:
        for item in error.errors():
            where = "".join(f"{part}: " for part in item["loc"])
            print(f"hope serve: {where}{item['msg']}", file=sys.stderr)
        return 2
    except (HopeError, StoreError, OSError) as error:
        print(f"hope serve: {error}", file=sys.stderr)
        return 1
    return 0


def _show_progress(fraction: float, text: str) -> None:
    print(f"{text}: {fraction:.0%}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
