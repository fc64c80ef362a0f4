"""The summary that a store keeps beside each session, so that listing and Get load no tensors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hope_runtime.errors import CorruptStateError
from hope_runtime.learning.figures import level_figures
from hope_runtime.session.guards import EMPTY_GUARDS, GuardState
from hope_runtime.session.memory import SessionMemory


@dataclass(frozen=True, slots=True)
class LevelSummary:
    """Figures of one level (LEVEL_FIGURES), and what its guards decided; see LevelStatus in
    sessions.proto."""

    period_tokens: int
    rank: int
    updates: int
    relative_norm: float
    learnt_tokens: int
    surprise_before_nats: float | None
    surprise_after_nats: float | None
    # Absent from summaries of levels without decisions of guards.
    frozen: bool = False
    rejections: int = 0
    # Guard, value, limit.
    guards: Sequence[tuple[str, float, float]] = ()


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of a session; see Session in sessions.proto."""

    learnable_tokens: int
    pending_tokens: int
    memory_hash: str
    levels: list[LevelSummary]
    conversations: list[str]
    # Name, committed bytes, ended, digest in hexadecimal, which is empty when it is not known.
    documents: list[tuple[str, int, bool, str]]


def encode_summary(memory: SessionMemory, norms: Sequence[float]) -> bytes:
    """JSON of a memory's Summary. `norms` are the relative norms of its levels."""
    levels = [
        level_figures(level, norm) | _guarded(level.guard)
        for level, norm in zip(memory.levels, norms, strict=True)
    ]
    summary = {
        "learnable_tokens": memory.observed_tokens,
        "pending_tokens": memory.pending_tokens,
        "memory_hash": memory.hash(),
        "levels": levels,
        "conversations": list(memory.conversations),
        "documents": [
            [name, item.committed_bytes, item.ended, item.digest.hex()]
            for name, item in memory.documents.items()
        ],
    }
    return json.dumps(summary).encode()


def _guarded(state: GuardState) -> dict[str, Any]:
    if state == EMPTY_GUARDS:
        return {}
    return {
        "frozen": state.frozen,
        "rejections": state.rejections,
        "guards": [[event.guard, event.value, event.limit] for event in state.events],
    }


def decode_summary(data: bytes) -> Summary:
    """Decode a Summary. Raises CorruptStateError for bytes that are not JSON, such as a summary
    that was sealed with keys which this server does not have."""
    try:
        fields: dict[str, Any] = json.loads(data)
    except ValueError:
        raise CorruptStateError(
            "the summary of the session cannot be decoded; it may have been stored with keys "
            "that this server does not have"
        ) from None
    return Summary(
        learnable_tokens=fields["learnable_tokens"],
        pending_tokens=fields["pending_tokens"],
        memory_hash=fields["memory_hash"],
        levels=[LevelSummary(**level) for level in fields["levels"]],
        conversations=fields["conversations"],
        # Summaries of older servers say nothing of digests.
        documents=[
            (name, size, ended, *(digest or [""]))
            for name, size, ended, *digest in fields["documents"]
        ],
    )
