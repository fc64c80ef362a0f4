"""Limits of sessions: times, numbers and quotas."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLimits:
    """Limits of the sessions of one server, under the names of its settings, which have the
    defaults. Times are in seconds; a quota of 0 is no limit."""

    # Sessions of a crashed server are held this long.
    lease_seconds: float
    # A chat is learnt after this long without a turn.
    idle_learning_seconds: float
    # A reply waits this long for learning under way, then goes on with the memory as it is.
    learning_wait_seconds: float
    # Sessions whose memory is kept in this process.
    resident_sessions: int
    # Recent versions of a memory that the store keeps.
    keep_versions: int
    # A turn is ended when its reader takes nothing for this long.
    stalled_stream_seconds: float
    # Bytes as `Head.stored_bytes` and `user_bytes` count them.
    session_quota_bytes: int
    user_quota_bytes: int
    user_quota_sessions: int
    user_quota_tokens_per_minute: int
