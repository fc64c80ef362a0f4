"""A server's model and load, as operators see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hope_runtime.session.policy import DEFAULT_POLICY
from server.app.sessions import Sessions


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The model that is served, and what a session on it may have."""

    fingerprint: str
    dtype: str
    window_tokens: int
    # Bytes of the levels of one session, under the policy whose levels are largest.
    max_state_bytes: int
    policies: Sequence[str]


@dataclass(frozen=True, slots=True)
class ServerLoad:
    """Work that a server does now, and what it keeps in memory."""

    running_turns: int
    waiting_turns: int
    learning_sessions: int
    resident_sessions: int
    resident_bytes: int


def model_info(sessions: Sessions) -> ModelInfo:
    """The model behind `sessions`."""
    engine = sessions.engine
    return ModelInfo(
        fingerprint=sessions.fingerprint,
        dtype=str(engine.model.dtype).removeprefix("torch."),
        window_tokens=engine.window_tokens,
        max_state_bytes=max(map(engine.state_bytes_limit, sessions.policies.values())),
        policies=sorted(sessions.policies),
    )


def describe_levels(sessions: Sessions) -> str:
    """Say how many bytes, and which ranks, a session learns at most under the default policy."""
    policy = sessions.policy(DEFAULT_POLICY.name)
    size = sessions.engine.state_bytes_limit(policy) / 1e6
    # Levels of a native model are whole weights.
    ranks = [str(level.rank) for level in policy.levels if policy.recipe != "streamed"]
    of_rank = f", of rank {', '.join(ranks)}" if ranks else ""
    return f"the {len(policy.levels)} levels of a session take at most {size:.1f} MB{of_rank}"


def server_load(sessions: Sessions) -> ServerLoad:
    """The load of the server now."""
    load = sessions.engine.load()
    return ServerLoad(
        running_turns=load.running,
        waiting_turns=load.waiting,
        learning_sessions=load.learning,
        resident_sessions=sessions.residency.resident_count,
        resident_bytes=load.resident_bytes,
    )
