"""The standard health service, which tells of the store as well.

A store that was lost (its file removed or replaced) ends SERVING: nothing more can be kept until
the server is restarted. A full one does not: reading, erasing and what keeps nothing go on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from grpc import aio
from grpc_health.v1 import health_pb2
from grpc_health.v1._async import HealthServicer

from server.app.health import StoreWatch
from server.store.errors import StoreError, StoreLostError

STORE_SERVICE = "hope.store"
"""Name under which the health service tells whether the store accepts writes."""
LOOK_SECONDS = 5.0
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health(HealthServicer):  # type: ignore[misc]  # without types
    """The standard health service for `services` and the store. `start` sets it to SERVING."""

    def __init__(self, watch: StoreWatch, services: Sequence[str]) -> None:
        super().__init__()
        self._watch = watch
        self._services = services
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to tell, and to look at the store every few seconds."""
        await self._look(room=True)
        self._looking = asyncio.create_task(self._keep_looking())

    async def enter_graceful_shutdown(self) -> None:
        """Tell NOT_SERVING from now on."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        await super().enter_graceful_shutdown()

    async def Check(  # noqa: N802 - the name is gRPC's
        self, request: health_pb2.HealthCheckRequest, context: aio.ServicerContext[Any, Any]
    ) -> health_pb2.HealthCheckResponse:
        if self._looking is not None:
            await self._look(room=False)
        answer: health_pb2.HealthCheckResponse = await super().Check(request, context)
        return answer

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self._look(room=True)

    async def _look(self, *, room: bool) -> None:
        with contextlib.suppress(StoreError):  # the watch remembers it
            await self._watch.look(room=room)
        problem = self._watch.problem
        whole = NOT_SERVING if isinstance(problem, StoreLostError) else SERVING
        for name in self._services:
            await self.set(name, whole)
        await self.set(STORE_SERVICE, NOT_SERVING if problem else SERVING)
