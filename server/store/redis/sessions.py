"""Sessions as a whole: making, finding and erasing them. How they change is in `history`.
Contracts are in `base`."""

from __future__ import annotations

from collections.abc import Mapping

from server.store.errors import AlreadyExistsError, StaleRevisionError, StoreUnavailableError
from server.store.redis.keys import OF_ANY_USER, UserKeys, parse
from server.store.redis.record import SessionRecord, State
from server.store.redis.transaction import ATTEMPTS, Draft, Transactions
from server.store.values import BlobRef, Head, SessionKey


async def create(
    draft: Draft,
    transactions: Transactions,
    *,
    fingerprint: str,
    policy: str,
    display_name: str,
    blobs: Mapping[str, BlobRef],
    summary: bytes,
) -> Head:
    if draft.record is not None:
        raise AlreadyExistsError(f"session {draft.key} already exists")
    draft.record = SessionRecord(
        key=draft.key,
        incarnation=await transactions.connection.number(),
        display_name=display_name,
        create_time=draft.now,
        update_time=draft.now,
        state=State(
            version=0,
            parent_version=None,
            log_seq=0,
            log_bytes=0,
            fingerprint=fingerprint,
            policy=policy,
            summary=summary,
            blobs=blobs,
        ),
    )
    draft.record.keep_version(draft.now)
    return draft.record.head()


async def list_sessions(
    transactions: Transactions, user: str, page_size: int, page_token: str
) -> tuple[list[Head], str]:
    # The token is the last name of the page before; no name is empty. Redis compares bytes, and
    # UTF-8 has the order of the code points.
    start = f"({page_token}" if page_token else "-"
    command = ("ZRANGE", UserKeys(user).names, start, "+", "BYLEX", "LIMIT", 0, page_size + 1)
    names = [name.decode() for name in await transactions.connection.call(*command)]
    page = names[:page_size]
    drafts = await transactions.read_all([SessionKey(user, name) for name in page]) if page else []
    heads = [draft.record.head() for draft in drafts if draft.record is not None]
    return heads, page[-1] if len(names) > page_size else ""


async def user_bytes(transactions: Transactions, user: str) -> int:
    sizes = await transactions.connection.call("HVALS", UserKeys(user).sizes)
    return sum(map(int, sizes))


def delete(draft: Draft, etag: str | None) -> None:
    record = draft.require()
    if etag is not None and etag != (actual := record.head().etag):
        raise StaleRevisionError(draft.key, etag, actual)
    draft.record = None


async def delete_user(transactions: Transactions, user: str) -> int:
    keys = UserKeys(user)
    for _ in range(ATTEMPTS):
        names = await transactions.connection.call("ZRANGE", keys.names, 0, -1)
        if not names:
            return 0
        drafts = await transactions.read_all([SessionKey(user, name.decode()) for name in names])
        if any(draft.record is None for draft in drafts):
            continue
        before = [draft.require().refs() for draft in drafts]
        for draft in drafts:
            draft.record = None
        # With all of these unchanged and as many names as before, no session was added.
        drafts[0].checks.append((str(len(names)), ("ZCARD", keys.names)))
        if await transactions.apply(drafts, before, when_full=True):
            return len(names)
    raise StoreUnavailableError(f"the sessions of users/{user} are being changed by others; retry")


async def users(transactions: Transactions) -> set[str]:
    """Everybody who has a session."""
    found = set()
    async for key in transactions.connection.keys_like(OF_ANY_USER + ":names"):
        if parts := parse(key):
            found.add(parts.user)
    return found


async def fingerprints(transactions: Transactions, limit: int) -> dict[str, int]:
    counts: dict[str, int] = {}
    for user in await users(transactions):
        token, more = "", True
        while more and limit > 0:
            heads, token = await list_sessions(transactions, user, min(100, limit), token)
            more = bool(token)
            limit -= len(heads)
            for head in heads:
                counts[head.fingerprint] = counts.get(head.fingerprint, 0) + 1
    return counts


async def erase_idle(transactions: Transactions, idle_seconds: float) -> int:
    """Erases sessions that nobody changed for so long, holds or works on; returns how many."""
    erased = 0
    for user in await users(transactions):
        token, more = "", True
        while more:
            heads, token = await list_sessions(transactions, user, 100, token)
            more = bool(token)
            for head in heads:
                erased += await transactions.change(
                    head.key, lambda draft: _erase_if_idle(draft, idle_seconds), when_full=True
                )
    return erased


async def _erase_if_idle(draft: Draft, idle_seconds: float) -> bool:
    record = draft.record
    if record is None or record.job is not None:
        return False
    held = record.lease
    if held is not None and held.epoch == draft.epoch and held.expires_at > draft.now:
        return False
    if draft.now - record.update_time <= idle_seconds:
        return False
    draft.record = None
    return True
