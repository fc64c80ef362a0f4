"""Benchmarks of the stores: time and bytes of committing a session and of loading it again.

A real store each time: SQLite's file, a valkey-server with its append-only file (everysec), and
SQLite with encryption around it. What was written lies in the machine's own cache when it is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from valkey_process import StoreProcess, binaries

from benchmarks.common import (
    Entry,
    observed_all,
    some_memory,
    text_spans,
)
from hope_runtime.engine.adapter_layout import AdapterLayout
from hope_runtime.layers.lora import LoraAdapter
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.codec import STATE_BLOB, decode_memory, encode_memory, encode_state
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.policy import DEFAULT_POLICY, POLICIES
from server.app.summary import encode_summary
from server.settings import Settings
from server.store.base import Commit, Head, Record, SessionKey, SessionStore, StoredReply
from server.store.factory import make_store

KINDS = ("sqlite", "redis", "encrypted")
SESSIONS = 200
TURNS = 500
USER = "ada"
LEASE_SECONDS = 120
# About what a turn of some sentences commits beside the state (docs/storage.md).
LOG_BYTES, REPLY_BYTES = 300, 200


@contextlib.contextmanager
def place_of(kind: str) -> Iterator[dict[str, Any]]:
    """Settings of an empty store, which is one of KINDS."""
    with tempfile.TemporaryDirectory(prefix="hope-bench-") as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        if kind == "redis":
            process = StoreProcess(binaries()["valkey"], directory).start()
            stack.callback(process.kill)
            yield {"store": process.url}
            return
        options: dict[str, Any] = {"database": directory / "sessions.db"}
        if kind == "encrypted":
            (directory / "master.key").write_text("5a" * 32)
            options["master_key_file"] = directory / "master.key"
            options["key_database"] = directory / "keys.db"
        yield options


@dataclass
class Times:
    """Seconds that calls took."""

    seconds: list[float] = field(default_factory=list)

    async def of(self, call: Awaitable[Any]) -> Any:
        started = time.perf_counter()
        result = await call
        self.seconds.append(time.perf_counter() - started)
        return result

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def milliseconds(self) -> dict[str, float]:
        """Percentiles."""
        cuts = statistics.quantiles(self.seconds, n=100)
        return {f"p{at}": round(cuts[at - 1] * 1000, 1) for at in (50, 95, 99)}


def store(kind: str) -> Callable[[BaseModel], Entry]:
    """Megabytes per second of loading a session whose every level has learnt, from a store that
    holds 200 of them: its median, and percentiles of all that is done with a store.

    `commit_ms` writes all levels, `turn_ms` what a turn without a boundary does; `load_ms` takes
    the lease and reads, `decode_ms` checks what was read and makes tensors of it.
    `turn_written_kb` is all that this process writes for a turn, the write-ahead log and its way
    back into the database among it; to Redis, what is sent."""

    def run(model: BaseModel) -> Entry:
        with place_of(kind) as place:
            return asyncio.run(_store(f"store.{kind}", model, Settings(**place)))

    return run


async def _store(name: str, model: BaseModel, settings: Settings) -> Entry:
    memory = observed_all(some_memory(model), text_spans(model, 1000), learnable=False)
    later = encode_state(observed_all(memory, text_spans(model, 40), learnable=False))
    keys = [SessionKey(USER, f"s{number}") for number in range(SESSIONS)]
    commits, turns, loads, decodes = Times(), Times(), Times(), Times()
    size_bytes = 0
    async with make_store(settings) as opened:
        for number, key in enumerate(keys):
            blobs = encode_memory(_marked(memory, number))
            size_bytes = sum(map(len, blobs.values()))
            await _commit(opened, key, blobs, memory, later, commits, turns)
        written_bytes = await _written_by_turn(opened, keys[-1], later)
    layout = AdapterLayout(model.config)
    random.Random(0).shuffle(keys)
    async with make_store(settings) as opened:
        for key in keys:
            found = await loads.of(_load(opened, key))
            started = time.perf_counter()
            decode_memory(found, policies=POLICIES, layout=layout, fingerprint=model.fingerprint)
            decodes.seconds.append(time.perf_counter() - started)
    return {
        "name": name,
        "value": size_bytes / 1e6 / loads.median,
        "unit": "MB/s loaded",
        "commit_mb_per_s": size_bytes / 1e6 / commits.median,
        "session_mb": size_bytes / 1e6,
        "sessions": SESSIONS,
        "load_ms": loads.milliseconds(),
        "decode_ms": decodes.milliseconds(),
        "commit_ms": commits.milliseconds(),
        "turn_ms": turns.milliseconds(),
        "turn_written_kb": written_bytes / 1e3,
    }


async def _commit(
    opened: SessionStore,
    key: SessionKey,
    blobs: dict[str, bytes],
    memory: SessionMemory,
    later: bytes,
    commits: Times,
    turns: Times,
) -> None:
    """A new session, its levels, and one turn, after which its state is `later`."""
    await opened.create(
        key,
        fingerprint=memory.fingerprint,
        policy=DEFAULT_POLICY.name,
        blobs={STATE_BLOB: blobs[STATE_BLOB]},
        summary=encode_summary(memory, [0.0] * len(memory.levels)),
    )
    lease = await opened.acquire(key, "benchmark", LEASE_SECONDS)
    head = await opened.head(key)
    learnt = Commit(
        expected_revision=head.revision,
        nonce="learnt",
        version=1,
        summary=head.summary,
        put_blobs=blobs,
        records=[Record("learn", bytes(LOG_BYTES))],
    )
    head = await commits.of(opened.commit(lease, learnt))
    await turns.of(opened.commit(lease, _turn(head, "said", later)))
    await opened.release(lease)


def _turn(head: Head, name: str, state: bytes) -> Commit:
    """A turn without a boundary."""
    return Commit(
        expected_revision=head.revision,
        nonce=name,
        version=head.version,
        summary=head.summary,
        put_blobs={STATE_BLOB: state},
        records=[Record("turn", random.randbytes(LOG_BYTES))],
        reply=StoredReply(
            request_id=name,
            body_digest=b"",
            payload=random.randbytes(REPLY_BYTES),
            expires_at=time.time() + 86400,
        ),
    )


async def _written_by_turn(opened: SessionStore, key: SessionKey, state: bytes) -> float:
    """Bytes that this process writes for each of many turns of one session."""
    lease = await opened.acquire(key, "benchmark", LEASE_SECONDS)
    head = await opened.head(key)
    before = _written()
    for number in range(TURNS):
        # The state's last bytes are tokens, which differ from turn to turn; nobody reads these.
        said = state[: -len(b"0000")] + b"%04d" % number
        head = await opened.commit(lease, _turn(head, f"turn {number}", said))
    written = _written() - before
    await opened.commit(lease, _turn(head, "last", state))
    await opened.release(lease)
    return written / TURNS


def _written() -> int:
    """Bytes that this process has written to files and sockets (Linux)."""
    for line in Path("/proc/self/io").read_text().splitlines():
        name, _, value = line.partition(": ")
        if name == "wchar":
            return int(value)
    raise RuntimeError("/proc/self/io has no line wchar")


async def _load(opened: SessionStore, key: SessionKey) -> dict[str, bytes]:
    """Work of a server before a session's first turn on it."""
    await opened.acquire(key, "another", LEASE_SECONDS)
    await opened.head(key)
    return await opened.read_blobs(key)


def _marked(memory: SessionMemory, number: int) -> SessionMemory:
    """The same with one element of each level changed, so that no two sessions share a blob."""
    levels = []
    for level in memory.levels:
        assert level.adapter is not None
        tensors = level.adapter.tensors()
        name = min(tensors)
        changed = tensors[name].clone()
        changed.view(-1)[0] = number
        levels.append(replace(level, adapter=LoraAdapter(**tensors | {name: changed})))
    return replace(memory, levels=tuple(levels))
