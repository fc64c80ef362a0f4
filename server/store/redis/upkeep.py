"""Upkeep of the database: its format, and the sessions that nobody uses any more."""

from __future__ import annotations

import asyncio
import logging

from server.store.errors import CorruptStoreError, StoreError, StoreVersionError
from server.store.redis import sessions
from server.store.redis.connection import Connection
from server.store.redis.keys import FORMAT
from server.store.redis.transaction import Transactions

_log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
# Idle sessions are looked for so often, or oftener when they are erased sooner.
SWEEP_SECONDS = 3600.0


async def check_format(connection: Connection) -> None:
    """Checks the format of the database, and writes it into a new one.

    Raises CorruptStoreError or StoreVersionError."""
    found = await connection.call("GET", FORMAT)
    if found is None:
        await connection.call("SET", FORMAT, SCHEMA_VERSION, "NX")
        found = await connection.call("GET", FORMAT)
    if not found.isdigit():
        raise CorruptStoreError(
            f"{connection.where} contains keys of another program under the prefix 'hope:'; use "
            "another database for the store"
        )
    if int(found) > SCHEMA_VERSION:
        raise StoreVersionError(
            f"{connection.where} has format {int(found)}, and this program supports formats up to "
            f"{SCHEMA_VERSION}; use a newer program"
        )


class IdleSweeper:
    """Erases sessions that nobody changed for `idle_seconds`, from `start` to `stop`; none
    if that is None."""

    def __init__(self, transactions: Transactions, idle_seconds: float | None) -> None:
        self._transactions = transactions
        self._idle_seconds = idle_seconds
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to look for idle sessions now and then."""
        if self._idle_seconds is not None:
            self._task = asyncio.create_task(self._sweep(self._idle_seconds))

    async def stop(self) -> None:
        """Returns when nothing is erased any more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _sweep(self, idle_seconds: float) -> None:
        while True:
            await asyncio.sleep(min(SWEEP_SECONDS, idle_seconds / 4))
            try:
                if erased := await sessions.erase_idle(self._transactions, idle_seconds):
                    _log.info("deleted %d idle sessions", erased)
            except StoreError as error:
                _log.warning("could not delete idle sessions; retrying later: %s", error)
