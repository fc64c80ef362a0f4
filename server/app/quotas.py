"""Quotas: bytes of a session and of a user in the store, sessions, and tokens learnt in a minute.

They are checked before something is added: a turn that has begun is never refused for them, nor is
its learning. So a session may exceed its quota by one turn and one consolidation, and a user learn
one turn too much, which delays the next one. Counts are in the store, so quotas hold for all
servers together.
"""

from __future__ import annotations

from dataclasses import dataclass

from server.app.limits import SessionLimits
from server.store.base import SessionKey, SessionStore


class QuotaExceededError(Exception):
    """A quota of `subject`, a session or a user, is used up. `retry_seconds` says when it is worth
    trying again; None when waiting does not help."""

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
    """The quotas among `limits`, checked against what `store` counts."""

    store: SessionStore
    limits: SessionLimits

    async def check(self, key: SessionKey, *, new: bool = False, adding: int = 1) -> None:
        """Check that a session, which may be `new`, and its user have room for `adding` bytes, and
        the user for a new session. Raises QuotaExceededError, NotFoundError."""
        if self.limits.session_quota_bytes:
            stored = 0 if new else (await self.store.head(key)).stored_bytes
            if stored + adding > self.limits.session_quota_bytes:
                raise _too_big(str(key), stored, self.limits.session_quota_bytes)
        if self.limits.user_quota_bytes:
            stored = await self.store.user_bytes(key.user)
            if stored + adding > self.limits.user_quota_bytes:
                raise _too_big(f"users/{key.user}", stored, self.limits.user_quota_bytes)
        if self.limits.user_quota_sessions and new:
            count = await self.store.user_sessions(key.user)
            if count >= self.limits.user_quota_sessions:
                raise QuotaExceededError(
                    f"users/{key.user}",
                    f"has {count} sessions and a quota of {self.limits.user_quota_sessions}; "
                    "delete a session that is no longer needed",
                )

    async def check_rate(self, user: str) -> None:
        """Raise QuotaExceededError while the user has learnt more than the rate allows."""
        if (seconds := await self.wait_seconds(user)) > 0:
            raise QuotaExceededError(
                f"users/{user}",
                f"exceeded its quota of {self.limits.user_quota_tokens_per_minute:,} learnt tokens "
                f"per minute; retry in {seconds:.0f} seconds, or set learn=false",
                retry_seconds=seconds,
            )

    async def wait_seconds(self, user: str) -> float:
        """Seconds until the user may learn again; 0 when they may now."""
        if not self.limits.user_quota_tokens_per_minute:
            return 0.0
        left = await self._draw(user, 0)
        return 0.0 if left > 0 else max(1.0, -left * 60 / self.limits.user_quota_tokens_per_minute)

    async def charge(self, user: str, tokens: int) -> None:
        """Count learnable tokens that became part of a session of the user."""
        if self.limits.user_quota_tokens_per_minute and tokens:
            await self._draw(user, tokens)

    async def _draw(self, user: str, tokens: int) -> float:
        limit = self.limits.user_quota_tokens_per_minute
        return await self.store.draw(user, tokens, capacity=limit, per_second=limit / 60)
