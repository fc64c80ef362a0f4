"""Counts of requests by how they ended, refusals before their handler included.

What turns cost is measured from their events (server/app/measures.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from server.grpc_api.interceptors.base import CallInterceptor, Context, Observer
from server.telemetry.metrics import Metrics

_KINDS = {
    f"/hope.v1.InferenceService/{method}": method.lower()
    for method in ("Generate", "Ingest", "Score")
}
_FAILED = {
    code.value[0]
    for code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS)
}


class MetricsInterceptor(CallInterceptor):
    """Adds every turn to `metrics`. Comes before the interceptor that translates errors."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def covers(self, path: str) -> bool:
        return path in _KINDS

    @asynccontextmanager
    async def around(self, path: str, context: Context) -> AsyncIterator[Observer]:
        outcome = "ok"
        try:
            yield Observer()
        except (asyncio.CancelledError, GeneratorExit):
            # A client that goes away closes the generator or cancels the call.
            outcome = "cancelled"
            raise
        except BaseException:
            code: Any = context.code()
            outcome = "failed" if code in _FAILED or not code else "refused"
            raise
        finally:
            self._metrics.requests.labels(_KINDS[path], outcome).inc()
