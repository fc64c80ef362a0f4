"""Replies of recent requests: a hash of them, and a sorted set of when they expire."""

from __future__ import annotations

import base64
import json

from server.store.redis.keys import UserKeys
from server.store.redis.scripts import Command
from server.store.redis.transaction import Draft
from server.store.values import StoredReply

# So many expired replies go with a commit; one makes one, so they do not pile up.
DROPPED_AT_ONCE = 100


def reading(keys: UserKeys, session: str, request_id: str | None) -> list[Command]:
    """Reads that a commit needs in order to keep a reply."""
    commands: list[Command] = [
        ("ZRANGE", keys.expiry(session), 0, DROPPED_AT_ONCE - 1, "WITHSCORES")
    ]
    if request_id is not None:
        commands.append(("HGET", keys.replies(session), request_id))
    return commands


def drop_expired(draft: Draft) -> StoredReply | None:
    """Takes expired replies away; returns the live one that was read along."""
    oldest, *asked = draft.replies
    session = draft.key.session
    ids = [
        name
        for name, expires_at in zip(oldest[::2], oldest[1::2], strict=True)
        if float(expires_at) <= draft.now
    ]
    if ids:
        draft.commands += [
            ("HDEL", draft.keys.replies(session), *ids),
            ("ZREM", draft.keys.expiry(session), *ids),
        ]
    return live(asked[0] if asked else None, draft.now)


def keep_reply(draft: Draft, reply: StoredReply) -> None:
    session = draft.key.session
    draft.commands += [
        ("HSET", draft.keys.replies(session), reply.request_id, _encode(reply)),
        ("ZADD", draft.keys.expiry(session), repr(float(reply.expires_at)), reply.request_id),
    ]


def live(value: bytes | None, now: float) -> StoredReply | None:
    """A reply as it was stored, None when there is none or it has expired."""
    if value is None:
        return None
    request_id, digest, payload, expires_at = json.loads(value)
    reply = StoredReply(
        request_id=request_id,
        body_digest=base64.b64decode(digest),
        payload=base64.b64decode(payload),
        expires_at=expires_at,
    )
    return reply if reply.expires_at > now else None


def _encode(reply: StoredReply) -> bytes:
    digest, payload = (
        base64.b64encode(data).decode() for data in (reply.body_digest, reply.payload)
    )
    return json.dumps([reply.request_id, digest, payload, reply.expires_at]).encode()
