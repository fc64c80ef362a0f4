"""Stored replies: a repeated request gets the answer of the first one again."""

from __future__ import annotations

import time
from dataclasses import dataclass

from hope_runtime.errors import InvalidRequestError
from server.app.events import Finished, TextDelta
from server.app.sessions import Sessions
from server.store.base import SessionKey, StoredReply

KEPT_SECONDS = 24 * 3600.0
MAX_REQUEST_ID = 128


@dataclass(frozen=True, slots=True)
class RequestId:
    """Protects a turn against being learnt twice. `digest`, of the request's content, tells a
    repetition from another request under the same id. Raises InvalidRequestError for an id that is
    too long."""

    id: str
    digest: bytes

    def __post_init__(self) -> None:
        if len(self.id) > MAX_REQUEST_ID:
            raise InvalidRequestError(
                f"request_id has {len(self.id)} characters; at most {MAX_REQUEST_ID} are allowed",
                field="request_id",
            )


async def find_reply(
    sessions: Sessions, key: SessionKey, request: RequestId
) -> tuple[TextDelta, Finished] | None:
    """The reply that is stored under a request's id: all of its text, and its end. Raises
    InvalidRequestError when the id was used for another request."""
    stored = await sessions.store.find_reply(key, request.id)
    if stored is None:
        return None
    if stored.body_digest != request.digest:
        raise InvalidRequestError(
            f"request_id '{request.id}' was already used for a different request; use a new one",
            field="request_id",
        )
    return sessions.replies.decode(stored.payload)


def to_store(
    sessions: Sessions, request: RequestId, delta: TextDelta, finished: Finished
) -> StoredReply:
    """A reply as the store keeps it, for a day from now."""
    return StoredReply(
        request_id=request.id,
        body_digest=request.digest,
        payload=sessions.replies.encode(delta, finished),
        expires_at=time.time() + KEPT_SECONDS,
    )
