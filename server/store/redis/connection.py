"""The connection to Redis: scripts, pieces of blobs, and waiting until a write is durable.

Knows redis-py, and that one lost connection in the middle of a write must not apply it twice. What
the keys mean is not known here.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from redis import asyncio as aioredis
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff

from server.store.errors import StoreUnavailableError
from server.store.redis.durability import Durability, examine
from server.store.redis.faults import no_memory, translated
from server.store.redis.keys import NUMBER as NUMBER_KEY
from server.store.redis.keys import WRITABLE as WRITABLE_KEY
from server.store.redis.keys import UserKeys
from server.store.redis.scripts import (
    DRAW,
    NUMBER,
    READ,
    WRITE,
    WRITE_WHEN_FULL,
    Command,
    Part,
    flat,
)

_log = logging.getLogger(__name__)

# redis-py tries a call again by itself; a short restart of the store passes unnoticed.
ATTEMPTS = 6
SOCKET_SECONDS = 5.0
# Pieces that travel together: no more memory than so many times CHUNK_BYTES is held for them.
CHUNKS_AT_ONCE = 8
# Uploaded pieces go by themselves unless a commit keeps them.
PENDING_SECONDS = 600
# Smaller blobs are sent without asking whether they are there.
SMALL_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Reading:
    """Result of a READ, all at one moment."""

    epoch: str
    now: float
    replies: list[Any]


class Connection:
    """A pool of connections to the server at `url`."""

    def __init__(
        self,
        url: str,
        password: str | None,
        durability: Durability,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._url = url
        self._password = password
        self._durability = durability
        self._clock = clock
        self.where = redacted(url)
        self._client: aioredis.Redis | None = None

    # Opening

    async def open(self) -> None:
        assert self._client is None, "the store is already open"
        try:
            client = aioredis.Redis.from_url(
                self._url,
                password=self._password,
                protocol=2,
                socket_timeout=SOCKET_SECONDS + self._durability.timeout_seconds,
                socket_connect_timeout=SOCKET_SECONDS,
                retry=Retry(ExponentialWithJitterBackoff(base=0.01, cap=0.5), ATTEMPTS),
            )
        except (ValueError, exceptions.RedisError):
            # The message of the original would quote the address, credentials and all.
            raise StoreUnavailableError(
                f"{self.where} is not the URL of a Redis or Valkey store"
            ) from None
        self._client = client
        try:
            await self._examine()
        except BaseException:
            self._client = None
            await client.aclose()
            raise

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _examine(self) -> None:
        text = (await self.call("INFO", "everything")).items()
        info = {str(name): str(value) for name, value in text}
        try:
            found = await self._connected().config_get("appendfsync")
            appendfsync = found.get("appendfsync")
        except exceptions.RedisError:  # a hosted server may not let us ask
            appendfsync = None
        report = examine(info, appendfsync, self._durability)
        for warning in report.warnings:
            _log.warning("%s: %s", self.where, warning)
        _log.info("%s; acknowledged turns lost when %s", self.where, "; ".join(report.losses))

    def _connected(self) -> aioredis.Redis:
        if self._client is None:
            raise StoreUnavailableError(f"{self.where} is not open")
        return self._client

    # Calls

    async def call(self, *command: Part) -> Any:
        """One plain command."""
        client = self._connected()
        with translated(self.where):
            return await client.execute_command(*command)  # type: ignore[no-untyped-call]

    async def keys_like(self, pattern: str) -> AsyncIterator[bytes]:
        """Every key that matches, some perhaps twice."""
        cursor = 0
        while True:
            cursor, keys = await self.call("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
            for key in keys:
                yield key
            if not int(cursor):
                return

    async def read(self, key: str, commands: Iterable[Command]) -> Reading:
        """Replies of commands that only read, in the slot of `key`."""
        (reply,) = await self._script(READ, [key], flat(commands))
        epoch, (seconds, microseconds), *replies = reply
        now = self._clock() if self._clock else int(seconds) + int(microseconds) / 1e6
        return Reading(epoch.decode(), now, replies)

    async def number(self) -> int:
        """A number that was never given before and is higher than all of them."""
        (reply,) = await self._script(NUMBER, [NUMBER_KEY], [])
        return int(reply)

    async def draw(
        self, keys: UserKeys, amount: float, capacity: float, per_second: float
    ) -> float:
        """Tokens left in a user's bucket; see `SessionStore.draw`."""
        now = repr(self._clock()) if self._clock else ""
        names = [keys.bucket, keys.done(uuid.uuid4().hex)]
        (left,) = await self._script(DRAW, names, [amount, capacity, per_second, now])
        return float(left)

    async def write(
        self,
        keys: UserKeys,
        epoch: str,
        checks: Sequence[tuple[Part, Command]],
        commands: Sequence[Command],
        *,
        when_full: bool,
    ) -> bool:
        """Applies the commands at one moment, if the server is still in `epoch` and each check
        answers what is expected; says whether it did. Durable when it returns True."""
        parts: list[Part] = [epoch, len(checks)]
        for expected, check in checks:
            parts += [expected, *flat([check])]
        script = WRITE_WHEN_FULL if when_full else WRITE
        done = keys.done(uuid.uuid4().hex)
        applied, *counts = await self._script(
            script, [done], [*parts, *flat(commands)], self._durability.command
        )
        if applied != 0:
            return False
        self._require_durable(counts)
        return True

    async def confirm(self, keys: UserKeys) -> None:
        """Returns when everything that this store has applied before is durable."""
        if (wait := self._durability.command) is not None:
            # WAIT and WAITAOF look at what their own connection wrote, so something must be.
            mark = ("SET", keys.done("confirmed"), "", "EX", PENDING_SECONDS)
            _, counts = await self.all([mark, wait])
            self._require_durable([counts])

    async def check_writable(self, room_bytes: int) -> None:
        """Raises StoreFullError when the server takes no write, or has less memory than that."""
        # A write that means nothing: a server that is full, read-only or cannot save refuses it.
        await self.call("SET", WRITABLE_KEY, "", "PX", 1000)
        info = await self.call("INFO", "memory")
        limit, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
        if limit and used + room_bytes > limit:
            raise no_memory(self.where)

    def _require_durable(self, counts: Sequence[Any]) -> None:
        if counts and not self._durability.reached(counts[0]):
            raise StoreUnavailableError(
                f"{self.where} applied a write but did not reach the requested durability in "
                "time; retry"
            )

    # Pieces of blobs

    async def missing(self, names: Sequence[str]) -> set[str]:
        """Those of these keys that are not there."""
        found = await self.all([("EXISTS", name) for name in names])
        return {name for name, there in zip(names, found, strict=True) if not there}

    async def put_pending(self, pieces: Mapping[str, memoryview]) -> None:
        """Stores pieces that nobody refers to yet; they go by themselves unless they are kept.
        What is there already stays untouched: it may be kept."""
        names = list(pieces)
        for at in range(0, len(names), CHUNKS_AT_ONCE):
            await self.all(
                [
                    ("SET", name, bytes(pieces[name]), "NX", "EX", PENDING_SECONDS)
                    for name in names[at : at + CHUNKS_AT_ONCE]
                ]
            )

    async def get(self, names: Sequence[str]) -> list[bytes | None]:
        found: list[bytes | None] = []
        for at in range(0, len(names), CHUNKS_AT_ONCE):
            found += await self.all([("GET", name) for name in names[at : at + CHUNKS_AT_ONCE]])
        return found

    # redis-py

    async def _script(
        self,
        script: str,
        keys: Sequence[str],
        arguments: Sequence[Part],
        then: Command | None = None,
    ) -> list[Any]:
        """The script's reply, and that of a command that follows on the same connection."""
        digest = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
        commands: list[Command] = [("EVALSHA", digest, len(keys), *keys, *arguments)]
        if then is not None:
            commands.append(then)
        for _ in range(ATTEMPTS):
            with contextlib.suppress(exceptions.NoScriptError):
                return await self.all(commands)
            # Not loaded yet, or the server was restarted since, perhaps just after loading.
            await self.call("SCRIPT LOAD", script)
        raise StoreUnavailableError(f"{self.where} does not keep its scripts loaded; retry")

    async def all(self, commands: Sequence[Command]) -> list[Any]:
        """Replies of plain commands that are sent together; others may come between them."""
        client = self._connected()
        if not commands:
            return []
        with translated(self.where):
            async with client.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                replies: list[Any] = await pipeline.execute(raise_on_error=False)
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
            return replies


def redacted(url: str) -> str:
    """The address without credentials, for messages."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "the store's address"
    return f"{parts.scheme}://{host}{port}{parts.path}"
