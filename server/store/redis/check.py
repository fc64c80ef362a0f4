"""The laws of the store, as a walk over all keys that finds what breaks them.

What it finds while others write may be a change under way.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from server.store.errors import StoreError
from server.store.redis.blobs import fault_of, fetch
from server.store.redis.keys import OF_ANY_USER, UserKeys, blob_field, log_field, parse
from server.store.redis.record import SessionRecord, decode
from server.store.redis.scripts import Command
from server.store.redis.transaction import Transactions, log_record
from server.store.values import BlobRef, SessionKey

# Blobs are read together up to so many bytes: all of them may be larger than memory.
BYTES_AT_ONCE = 64 << 20


async def broken_laws(transactions: Transactions) -> list[str]:
    kinds: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    async for key in transactions.connection.keys_like(OF_ANY_USER):
        if parts := parse(key):
            kinds[parts.user][parts.kind].add(parts.rest)
    findings: list[str] = []
    fences: dict[int, SessionKey] = {}
    for user, found in kinds.items():
        findings += await _of_user(transactions, user, found, fences)
    return findings


async def _of_user(
    transactions: Transactions,
    user: str,
    found: dict[str, set[str]],
    fences: dict[int, SessionKey],
) -> list[str]:
    keys = UserKeys(user)
    sessions, held, pieces = sorted(found["head"]), sorted(found["holders"]), sorted(found["chunk"])
    commands: list[Command] = [("ZRANGE", keys.names, 0, -1), ("HGETALL", keys.sizes)]
    commands += [("SMEMBERS", keys.holders(digest)) for digest in held]
    commands += [("TTL", keys.chunk(piece)) for piece in pieces]
    for name in sessions:
        commands += [
            ("HGETALL", keys.head(name)),
            ("LRANGE", keys.log(name), 0, -1),
            ("HKEYS", keys.replies(name)),
            ("ZRANGE", keys.expiry(name), 0, -1),
        ]
    replies = iter(await transactions.connection.all(commands))
    names = {name.decode() for name in next(replies)}
    counted = {field.decode(): int(size) for field, size in next(replies).items()}
    holders = {digest: {name.decode() for name in next(replies)} for digest in held}
    lasting = {piece for piece in pieces if next(replies) == -1}

    findings = []
    if names != found["head"]:
        findings.append(f"names and records of {user} differ: {names ^ found['head']}")
    for kind in ("log", "replies", "expiry"):
        if strays := found[kind] - found["head"]:
            findings.append(f"{kind} without a session: {user} {strays}")
    sizes: dict[str, int] = {}
    referring: dict[str, set[str]] = defaultdict(set)
    refs: dict[str, BlobRef] = {}
    for name in sessions:
        key = SessionKey(user, name)
        head, entries, answered, expiring = (next(replies) for _ in range(4))
        if set(answered) != set(expiring):
            findings.append(f"replies that do not expire: {key}")
        try:
            fields = {field.decode(): value for field, value in head.items()}
            del fields["stamp"]
            record = decode(key, fields)
        except (KeyError, StoreError) as error:
            findings.append(f"record of {key}: {error}")
            continue
        findings += _of_session(record, entries)
        if record.lease and fences.setdefault(record.lease.fence, key) != key:
            findings.append(f"fence granted twice: {record.lease.fence}")
        sizes[log_field(name)] = record.state.log_bytes
        for digest, ref in record.refs().items():
            refs[digest] = ref
            referring[digest].add(name)
            sizes[blob_field(digest)] = ref.size_bytes
    if counted != sizes:
        findings.append(f"sizes of {user} are miscounted")
    if holders != referring:
        findings.append(f"blobs of {user} are held by {holders}, not {dict(referring)}")
    kept = {keys.piece(name) for ref in refs.values() for name in keys.chunks(ref)}
    # What a commit has sent and not kept goes by itself.
    if lasting != kept:
        findings.append(
            f"chunks of {user} that last and should not, or the other way round: {lasting ^ kept}"
        )
    return findings + await _of_blobs(transactions, keys, list(refs.values()))


def _of_session(record: SessionRecord, entries: list[Any]) -> list[str]:
    state = record.state
    findings = []
    if len(entries) != state.log_seq:
        findings.append(f"log with a gap: {record.key} {len(entries)} {state.log_seq}")
    elif sum(len(log_record(1, entry).payload) for entry in entries) != state.log_bytes:
        findings.append(f"log whose bytes are miscounted: {record.key}")
    if state.version != max(record.versions, default=-1):
        findings.append(f"head whose version is not the highest kept: {record.key}")
    if any(kept.log_seq > state.log_seq for kept, _ in record.versions.values()):
        findings.append(f"version ahead of the log: {record.key}")
    if any(named.version not in record.versions for named in record.snapshots.values()):
        findings.append(f"snapshot of a version that is not kept: {record.key}")
    return findings


async def _of_blobs(transactions: Transactions, keys: UserKeys, refs: list[BlobRef]) -> list[str]:
    findings = []
    while refs:
        together = [refs.pop()]
        while refs and sum(ref.size_bytes for ref in (*together, refs[-1])) <= BYTES_AT_ONCE:
            together.append(refs.pop())
        for ref, data in (await fetch(transactions.connection, keys, together)).items():
            if fault := fault_of(ref, data):
                findings.append(f"blob {ref.digest}: {fault}")
    return findings
