"""Durability of an acknowledged write: what is lost in which failure.

Looks at a server before it is trusted with sessions: refuses what would lose them silently, and
says what remains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from server.store.errors import StoreUnavailableError, StoreVersionError

OLDEST = (7, 0)
OLDEST_WITH_WAITAOF = (7, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Durability:
    """Copies that a write waits for before it is acknowledged, beyond the server's settings."""

    fsync: bool = False
    """The server's append-only file is on its disk (WAITAOF)."""
    replicas: int = 0
    """So many replicas have it: in memory, or on their disks with `fsync`."""
    timeout_seconds: float = 2.0
    """After that the write counts as not acknowledged; it may have happened."""

    @property
    def command(self) -> tuple[str | int, ...] | None:
        """The command that waits, None when nothing is waited for."""
        milliseconds = max(1, int(self.timeout_seconds * 1000))
        if self.fsync:
            return ("WAITAOF", 1, self.replicas, milliseconds)
        return ("WAIT", self.replicas, milliseconds) if self.replicas else None

    def reached(self, reply: int | list[int]) -> bool:
        """Whether the counts that the server answered are what was asked for."""
        if self.fsync:
            assert isinstance(reply, list)
            local, replicas = reply
            return local >= 1 and replicas >= self.replicas
        assert isinstance(reply, int)
        return reply >= self.replicas


@dataclass(frozen=True, slots=True)
class Report:
    """Findings at start-up, for the log."""

    warnings: list[str]
    losses: list[str]


def examine(info: Mapping[str, str], appendfsync: str | None, wanted: Durability) -> Report:
    """Looks at what INFO says; `appendfsync` is None when it may not be asked for.

    Raises StoreVersionError for a server that is too old, and StoreUnavailableError for one that
    would lose sessions silently or cannot do what is wanted."""
    version = tuple(int(part) for part in info["redis_version"].split(".")[:2])
    if version < OLDEST:
        raise StoreVersionError(
            f"the store runs version {info['redis_version']}; Redis 7, Valkey 8 or newer is "
            "required"
        )
    policy = info.get("maxmemory_policy", "noeviction")
    if policy.startswith("allkeys-"):
        raise StoreUnavailableError(
            f"the store evicts sessions when memory is short (maxmemory-policy {policy}); set "
            "maxmemory-policy noeviction"
        )
    has_file = info.get("aof_enabled") == "1"
    if wanted.fsync and version < OLDEST_WITH_WAITAOF:
        raise StoreUnavailableError(
            f"the store runs version {info['redis_version']}; store_fsync requires 7.2 or newer"
        )
    if wanted.fsync and not has_file:
        raise StoreUnavailableError(
            "store_fsync requires the append-only file of the store; set appendonly yes"
        )
    return Report(_warnings(policy, has_file), _losses(has_file, appendfsync, wanted))


def _warnings(policy: str, has_file: bool) -> list[str]:
    warnings = []
    if not has_file:
        warnings.append("the append-only file of the store is off; set appendonly yes")
    if policy != "noeviction":
        warnings.append(
            f"maxmemory-policy is {policy}, so commits in progress may be evicted and refused; "
            "set maxmemory-policy noeviction"
        )
    return warnings


def _losses(has_file: bool, appendfsync: str | None, wanted: Durability) -> list[str]:
    """Failures that an acknowledged turn survives, one by one."""
    crash = "nothing" if has_file else "everything since the last RDB file"
    if not has_file:
        power = crash
    elif wanted.fsync or appendfsync == "always":
        power = "nothing"
    elif appendfsync == "no":
        power = "everything not yet written by the kernel, often 30 seconds"
    else:
        power = "up to 2 seconds"
    failover = (
        f"nothing held by {wanted.replicas} replica(s), if one of them is promoted"
        if wanted.replicas
        else "everything that had not reached the promoted replica"
    )
    return [
        "a hope server stops: nothing",
        f"the store process stops: {crash}",
        f"the store machine loses power: {power}",
        f"a replica of the store is promoted: {failover}",
        "after the last three, every lease is void and sessions are loaded again",
    ]
