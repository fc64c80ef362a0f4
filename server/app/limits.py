"""Limits that every session of a server keeps: how long, how many, how much."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLimits:
    """Limits of the sessions of one server. Times are in seconds; a quota of 0 is no limit."""

    # A crashed server holds its sessions for so long.
    lease_seconds: float = 30
    # A chat that was quiet for so long is learnt.
    idle_learning_seconds: float = 300
    # Sessions whose memory is kept in this process.
    resident_sessions: int = 64
    # Recent versions of a memory that the store keeps.
    keep_versions: int = 8
    # A turn whose reader takes nothing for so long is ended.
    stalled_stream_seconds: float = 60
    # Bytes as `Head.stored_bytes` and `user_bytes` count them.
    session_quota_bytes: int = 0
    user_quota_bytes: int = 0
    user_quota_sessions: int = 0
    user_quota_tokens_per_minute: int = 0
