"""Quotas: bytes of a session and of a user in the store, sessions, and tokens learnt in a minute.

They are looked at before something is added: a turn that has begun, and what it teaches, is never
refused for them. So a session may end up over its quota by one turn and one consolidation, and a
user learn one turn too much, which is waited for before the next. They are in the store, so they
hold for all servers together.
"""

from __future__ import annotations

from dataclasses import dataclass

from server.store.base import SessionKey, SessionStore


class QuotaExceededError(Exception):
    """Nothing more may be added to `subject`, a session or a user; where waiting helps, until
    `retry_seconds` have passed."""

    def __init__(self, subject: str, message: str, retry_seconds: float | None = None) -> None:
        super().__init__(f"{subject} {message}")
        self.subject = subject
        self.retry_seconds = retry_seconds


def _too_big(subject: str, used_bytes: int, limit_bytes: int) -> QuotaExceededError:
    return QuotaExceededError(
        subject,
        f"uses {used_bytes:,} of {limit_bytes:,} bytes of its quota; delete data that is no "
        "longer needed",
    )


@dataclass(frozen=True, slots=True)
class Quotas:
    """Limits, bytes as `Head.stored_bytes` and `user_bytes` count them; 0 is no limit."""

    store: SessionStore
    session_bytes: int = 0
    user_bytes: int = 0
    user_sessions: int = 0
    user_tokens_per_minute: int = 0

    async def check(self, key: SessionKey, *, new: bool = False, adding: int = 1) -> None:
        """Raises QuotaExceededError when the session, which may be `new`, or its user has no room
        for `adding` bytes, or a new one is one too many. Raises NotFoundError."""
        if self.session_bytes:
            stored = 0 if new else (await self.store.head(key)).stored_bytes
            if stored + adding > self.session_bytes:
                raise _too_big(str(key), stored, self.session_bytes)
        if self.user_bytes:
            stored = await self.store.user_bytes(key.user)
            if stored + adding > self.user_bytes:
                raise _too_big(f"users/{key.user}", stored, self.user_bytes)
        if self.user_sessions and new:
            count = await self.store.user_sessions(key.user)
            if count >= self.user_sessions:
                raise QuotaExceededError(
                    f"users/{key.user}",
                    f"has {count} sessions and a quota of {self.user_sessions}; delete a session "
                    "that is no longer needed",
                )

    async def check_rate(self, user: str) -> None:
        """Raises QuotaExceededError while the user has learnt more than its rate allows."""
        if (seconds := await self.wait_seconds(user)) > 0:
            raise QuotaExceededError(
                f"users/{user}",
                f"exceeded its quota of {self.user_tokens_per_minute:,} learnt tokens per "
                f"minute; retry in {seconds:.0f} seconds, or set learn=false",
                retry_seconds=seconds,
            )

    async def wait_seconds(self, user: str) -> float:
        """How long until the user may learn again; 0 when it may now."""
        if not self.user_tokens_per_minute:
            return 0.0
        left = await self._draw(user, 0)
        return 0.0 if left > 0 else max(1.0, -left * 60 / self.user_tokens_per_minute)

    async def charge(self, user: str, tokens: int) -> None:
        """Counts learnable tokens that became part of a session of the user."""
        if self.user_tokens_per_minute and tokens:
            await self._draw(user, tokens)

    async def _draw(self, user: str, tokens: int) -> float:
        limit = self.user_tokens_per_minute
        return await self.store.draw(user, tokens, capacity=limit, per_second=limit / 60)
