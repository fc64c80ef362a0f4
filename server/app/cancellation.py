"""Waiting that outlives a cancelled caller, for what must not be left half done."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from hope_runtime.engine.request import Request

_Result = TypeVar("_Result")


async def complete(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Runs `work` to its end even if the caller is cancelled meanwhile, and only then says so.

    For what must not be left half done while a lock is held.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await _ended(task)
        raise


async def result_of(request: Request[_Result]) -> _Result:
    """Result of the engine's work. When the caller is cancelled, the work is, and its row is free
    again by the time this raises."""
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
    """Waits for the end of `work`, even if cancelled again: by a client, then by the shutdown."""
    while not work.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([work])
