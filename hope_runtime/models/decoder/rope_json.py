"""Rotary positions in config.json -> fields of ModelConfig.

Every kind of scaling but Llama 3's, which is stored by its own numbers, becomes one divisor for
each frequency and a factor of what is rotated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from hope_runtime.errors import UnsupportedModelError
from hope_runtime.layers.config import RopeScaling
from hope_runtime.models.decoder.family import Family

DEFAULT_THETA = 10_000.0


def rope_from_json(
    family: Family,
    raw: Mapping[str, Any],
    K: int,
    refuse: Callable[[str], UnsupportedModelError],
) -> dict[str, Any]:
    """Fields of ModelConfig about positions, `max_positions` among them; `K` is a head's width."""
    # New spelling: rope_parameters holds all of it, by the kind of layer where layers differ. Old:
    # rope_theta, and rope_scaling or null.
    given = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    sliding = given.get("sliding_attention")
    rope = {"rope_theta": raw.get("rope_theta", DEFAULT_THETA)}
    rope |= given.get("full_attention") or ({} if sliding else given)
    fields: dict[str, Any] = {"rope_theta": float(rope["rope_theta"])}
    local = (sliding or {}).get("rope_theta", raw.get("rope_local_base_freq"))
    if local is not None:
        fields["sliding_theta"] = float(local)
    if sliding and sliding.get("rope_type", "default") != "default":
        raise refuse("scaled rotary positions on its sliding layers")
    part = rope.get("partial_rotary_factor", raw.get("partial_rotary_factor")) or 1.0
    if part != 1.0:
        if not family.partial_rotary:
            raise refuse("rotary positions on only a part of each head")
        fields["rotary_dim"] = int(K * part)
    positions = fields["max_positions"] = raw["max_position_embeddings"]
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        if rope.get("factor") not in (None, 1, 1.0):
            raise refuse(f"rotary scaling by {rope['factor']!r} without its type")
    elif kind == "llama3":
        fields["rope_scaling"] = RopeScaling(
            factor=rope["factor"],
            low_freq_factor=rope["low_freq_factor"],
            high_freq_factor=rope["high_freq_factor"],
            original_max_positions=rope["original_max_position_embeddings"],
        )
    elif kind == "linear":
        fields["rope_factors"] = (float(rope["factor"]),) * (int(K * part) // 2)
    elif kind == "yarn":
        fields |= _yarn(rope, int(K * part))
    elif kind in ("longrope", "su"):
        original = rope.get(
            "original_max_position_embeddings", raw.get("original_max_position_embeddings")
        )
        fields |= longrope(rope["short_factor"], positions, original, rope)
    else:
        raise refuse(f"rotary scaling of type {kind!r}")
    return fields


def longrope(
    short: list[float], positions: int, original: int | None, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Scaling by the factors of short texts (arXiv 2402.13753). Longer texts than `original` would
    change the frequencies of all their tokens, so a window has no more positions than that."""
    original = original or positions
    gain = given.get("attention_factor")
    if gain is None:
        factor = given.get("factor") or positions / original
        gain = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return {
        "rope_factors": tuple(map(float, short)),
        "rotary_gain": float(gain),
        "max_positions": min(positions, original),
    }


def _yarn(rope: Mapping[str, Any], K: int) -> dict[str, Any]:
    """Scaling by wavelength (arXiv 2309.00071), as `transformers` computes it."""
    factor, theta = rope["factor"], rope["rope_theta"]
    original = rope["original_max_position_embeddings"]

    def place(turns: float) -> float:
        return K * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = place(rope.get("beta_fast") or 32), place(rope.get("beta_slow") or 1)
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, K - 1)
    span = high - low or 0.001
    slowed = [min(max((pair - low) / span, 0.0), 1.0) for pair in range(K // 2)]

    def gain(scale: float) -> float:
        return 0.1 * scale * math.log(factor) + 1 if factor > 1 else 1.0

    found = rope.get("attention_factor")
    if found is None:
        one, all_dim = rope.get("mscale"), rope.get("mscale_all_dim")
        found = gain(one) / gain(all_dim) if one and all_dim else gain(1.0)
    return {
        "rope_factors": tuple(1 / (part / factor + 1 - part) for part in slowed),
        "rotary_gain": float(found),
    }
