"""One change of one session: read, decide, send blobs, compare and write.

Each attempt reads the record, lets an operation change it in memory, stores the pieces of new blobs
where they expire by themselves, and then applies the difference in one script, if the record is
still the one that was read. So a change happens wholly or not at all wherever it is cut off, and
of two at once the later one is decided again.

Why the epoch (the process of the server) is compared too: a promoted replica may lack the last
writes, a lease that was granted since among them. A lease counts only in the epoch that granted it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from server.store.errors import (
    NotFoundError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
)
from server.store.redis import blobs as blob_bytes
from server.store.redis.connection import Connection
from server.store.redis.keys import UserKeys, blob_field, log_field
from server.store.redis.record import SessionRecord, decode, encode
from server.store.redis.scripts import Command, Part, in_pieces
from server.store.values import BlobRef, LogRecord, Record, SessionKey

ATTEMPTS = 50
_T = TypeVar("_T")


@dataclass(slots=True)
class Draft:
    """A session as it was read, for an operation to change; None stands for no session."""

    key: SessionKey
    keys: UserKeys
    epoch: str
    now: float
    stamp: str
    """Changes with every write of the record; empty when there is none."""
    before: Mapping[str, bytes]
    record: SessionRecord | None
    replies: list[Any]
    """Of the commands that were read along."""
    records: list[Record] = field(default_factory=list)
    """To be appended to the log."""
    commands: list[Command] = field(default_factory=list)
    """To be applied besides."""
    checks: list[tuple[Part, Command]] = field(default_factory=list)
    """Further conditions that must still hold."""

    def require(self) -> SessionRecord:
        """The record. Raises NotFoundError."""
        if self.record is None:
            raise NotFoundError(f"session {self.key} does not exist")
        return self.record


def at_once(operation: Callable[[Draft], _T]) -> Callable[[Draft], Awaitable[_T]]:
    """The operation that waits for nothing, in the form that `Transactions.change` takes."""

    async def call(draft: Draft) -> _T:
        return operation(draft)

    return call


class Transactions:
    """Reads and changes of sessions over one connection."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def read(self, key: SessionKey, *commands: Command) -> Draft:
        """A session, and replies of commands that read along with it, at one moment."""
        (draft,) = await self.read_all([key], *commands)
        return draft

    async def read_all(self, wanted: Sequence[SessionKey], *commands: Command) -> list[Draft]:
        """Sessions of one user, all at one moment."""
        keys = UserKeys(wanted[0].user)
        heads: list[Command] = [("HGETALL", keys.head(key.session)) for key in wanted]
        found = await self.connection.read(keys.names, [*heads, *commands])
        drafts = []
        for key, flat in zip(wanted, found.replies, strict=False):
            fields = {
                name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)
            }
            stamp = fields.pop("stamp", b"").decode()
            record = decode(key, fields) if fields else None
            rest = found.replies[len(wanted) :]
            drafts.append(Draft(key, keys, found.epoch, found.now, stamp, fields, record, rest))
        return drafts

    async def change(
        self,
        key: SessionKey,
        operation: Callable[[Draft], Awaitable[_T]],
        *,
        sent: Mapping[BlobRef, bytes] | None = None,
        reading: Sequence[Command] = (),
        when_full: bool = False,
    ) -> _T:
        """Applies what `operation` makes of the session; returns what it returns.

        `sent` are the bytes of blobs that it may refer to. An operation that changes nothing only
        waits until what came before is durable."""
        for attempt in range(ATTEMPTS):
            draft = await self.read(key, *reading)
            before = {} if draft.record is None else draft.record.refs()
            result = await operation(draft)
            if not _changes(draft):
                await self.connection.confirm(draft.keys)
                return result
            await self.send(draft, before, sent or {})
            if await self.apply([draft], [before], when_full=when_full):
                return result
            await asyncio.sleep(random.uniform(0, 0.002 * min(attempt, 10)))
        raise StoreUnavailableError(
            f"session {key} is being changed by many callers at once; retry"
        )

    async def send(
        self, draft: Draft, before: Mapping[str, BlobRef], sent: Mapping[BlobRef, bytes]
    ) -> None:
        """Stores the bytes of blobs that the session did not refer to before."""
        after = {} if draft.record is None else draft.record.refs()
        new = {ref: sent[ref] for ref in after.values() if ref.digest not in before and ref in sent}
        try:
            await blob_bytes.send(self.connection, draft.keys, new)
        except StoreFullError:
            # Give back what was sent in vain, so that a store that is nearly full stays usable.
            names = [name for ref in new for name in draft.keys.chunks(ref)]
            with contextlib.suppress(StoreError):
                await self.connection.write(
                    draft.keys, draft.epoch, [], in_pieces(["DISCARD"], names), when_full=True
                )
            raise

    async def apply(
        self,
        drafts: Sequence[Draft],
        before: Sequence[Mapping[str, BlobRef]],
        *,
        when_full: bool,
    ) -> bool:
        """Writes what became of sessions of one user, all at one moment, if nobody else did
        meanwhile; says whether it did."""
        checks: list[tuple[Part, Command]] = []
        commands: list[Command] = []
        for draft, refs in zip(drafts, before, strict=True):
            head = draft.keys.head(draft.key.session)
            checks += [(draft.stamp, ("HGET", head, "stamp")), *draft.checks]
            after = {} if draft.record is None else draft.record.refs()
            for digest in after.keys() - refs.keys():
                names = draft.keys.chunks(after[digest])
                checks.append((str(len(names)), ("EXISTS", *names)))
            commands += _blob_commands(draft, refs, after)
            commands += _record_commands(draft)
        keys, epoch = drafts[0].keys, drafts[0].epoch
        return await self.connection.write(keys, epoch, checks, commands, when_full=when_full)


def _changes(draft: Draft) -> bool:
    if draft.commands or draft.records:
        return True
    return (draft.record is None) != (not draft.before) or (
        draft.record is not None and encode(draft.record) != draft.before
    )


def _blob_commands(
    draft: Draft, before: Mapping[str, BlobRef], after: Mapping[str, BlobRef]
) -> list[Command]:
    keys, session = draft.keys, draft.key.session
    commands: list[Command] = []
    for digest in sorted(after.keys() - before.keys()):
        ref = after[digest]
        start = ("KEEP", keys.holders(digest), session, keys.sizes, blob_field(digest))
        commands.append((*start, ref.size_bytes, *keys.chunks(ref)))
    for digest in sorted(before.keys() - after.keys()):
        start = ("DROP", keys.holders(digest), session, keys.sizes, blob_field(digest))
        commands.append((*start, *keys.chunks(before[digest])))
    return commands


def _record_commands(draft: Draft) -> list[Command]:
    keys, session = draft.keys, draft.key.session
    head = keys.head(session)
    commands: list[Command] = []
    if draft.record is None:
        mine = (head, keys.log(session), keys.replies(session), keys.expiry(session))
        return [
            ("UNLINK", *mine),
            ("ZREM", keys.names, session),
            ("HDEL", keys.sizes, log_field(session)),
        ]
    after = encode(draft.record)
    changed: list[Part] = ["stamp", uuid.uuid4().hex]
    for name, value in after.items():
        if draft.before.get(name) != value:
            changed += [name, value]
    commands += in_pieces(("HSET", head), changed)
    commands += in_pieces(("HDEL", head), sorted(draft.before.keys() - after.keys()))
    if not draft.before:
        commands.append(("ZADD", keys.names, 0, session))
    commands += draft.commands
    commands += in_pieces(("RPUSH", keys.log(session)), [log_entry(each) for each in draft.records])
    if draft.records or not draft.before:
        size = draft.record.state.log_bytes
        commands.append(("HSET", keys.sizes, log_field(session), size))
    return commands


def log_entry(record: Record) -> bytes:
    """A record as the log's list has it."""
    kind = record.kind.encode()
    return len(kind).to_bytes(2, "big") + kind + record.payload


def log_record(seq: int, entry: bytes) -> LogRecord:
    end = 2 + int.from_bytes(entry[:2], "big")
    return LogRecord(seq, entry[2:end].decode(), entry[end:])
