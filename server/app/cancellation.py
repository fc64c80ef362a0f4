"""Cancellation: waiting for work that must not be left half done when its caller is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from hope_runtime.engine.request import Request

_Result = TypeVar("_Result")


async def complete(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Run `work` to its end even if the caller is cancelled meanwhile; the CancelledError is raised
    after it. For work that must not be left half done while a lock is held."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await _ended(task)
        raise


async def result_of(request: Request[_Result]) -> _Result:
    """Wait for the engine's work. Cancelling the caller cancels the work, whose row is free again
    when this raises."""
    future: Future[_Result] = request.future
    waiter = asyncio.wrap_future(future)
    try:
        return await asyncio.shield(waiter)
    except asyncio.CancelledError:
        request.cancel()
        await _ended(waiter)
        waiter.exception()  # known: what was cancelled says so
        raise


async def _ended(work: asyncio.Future[Any]) -> None:
    """Wait for the end of `work`, even if cancelled again: by a client, then by the shutdown."""
    while not work.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([work])
