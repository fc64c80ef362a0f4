"""Quotas: how many bytes a session, and a user, may take in the store.

They are looked at before something is added: a turn that has begun, and what it teaches, is never
refused for them. So a session may end up over its quota by one turn and one consolidation.
"""

from __future__ import annotations

from dataclasses import dataclass

from server.store.base import SessionKey, SessionStore


class QuotaExceededError(Exception):
    """Nothing more may be added to `subject`, a session or a user."""

    def __init__(self, subject: str, used_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"{subject} takes {used_bytes:,} bytes of the {limit_bytes:,} that it may; "
            "erase what is not needed any more."
        )
        self.subject = subject


@dataclass(frozen=True, slots=True)
class Quotas:
    """Limits in bytes, as `Head.stored_bytes` and `user_bytes` count them; 0 is no limit."""

    store: SessionStore
    session_bytes: int = 0
    user_bytes: int = 0

    async def check(self, key: SessionKey, *, new: bool = False, adding: int = 1) -> None:
        """Raises QuotaExceededError when the session, which may be `new`, or its user has no room
        for `adding` bytes. Raises NotFoundError."""
        if self.session_bytes:
            stored = 0 if new else (await self.store.head(key)).stored_bytes
            if stored + adding > self.session_bytes:
                raise QuotaExceededError(str(key), stored, self.session_bytes)
        if self.user_bytes:
            stored = await self.store.user_bytes(key.user)
            if stored + adding > self.user_bytes:
                raise QuotaExceededError(f"users/{key.user}", stored, self.user_bytes)
