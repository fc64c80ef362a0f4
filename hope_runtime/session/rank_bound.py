"""Ranks by the model's size: a session's levels stay under one bound, whatever model they are of.

A unit of rank costs more in a larger model, by its width and its layers, and holds as much more: at
the bound every model's levels have about the same number of parameters. So ranks are halved, all of
a policy's together, until they fit. A policy that fits stays what it is, its digest included.
"""

from __future__ import annotations

from dataclasses import replace

from hope_runtime.errors import UnsupportedModelError
from hope_runtime.layers.config import ModelConfig
from hope_runtime.session.memory import state_bytes_limit
from hope_runtime.session.policy import LearningPolicy

MAX_STATE_BYTES = 64_000_000
"""Bytes that the levels of one session take at most, under every policy."""


def within_bound(policy: LearningPolicy, config: ModelConfig) -> LearningPolicy:
    """The policy with the ranks that it has on this model: its own, halved as often as it takes for
    a session's levels to stay within MAX_STATE_BYTES, but each at least 1.

    Raises UnsupportedModelError for a model of which even levels of rank 1 are larger.
    """
    while (size := state_bytes_limit(config, policy)) > MAX_STATE_BYTES:
        if all(level.rank == 1 for level in policy.levels):
            raise UnsupportedModelError(
                f"the levels of a session would take {size / 1e6:.0f} MB on this model even at "
                f"rank 1, but at most {MAX_STATE_BYTES / 1e6:.0f} MB are supported; serve a "
                "smaller model"
            )
        halved = (replace(level, rank=max(1, level.rank // 2)) for level in policy.levels)
        policy = replace(policy, levels=tuple(halved))
    return policy
