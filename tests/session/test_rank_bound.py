"""Ranks by the model's size: one bound on a session's state, for published sizes of all families.

The sizes are those of the table in docs/models.md, whose ranks and bytes are checked, too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from hope_runtime.engine.adapter_layout import AdapterLayout
from hope_runtime.errors import StateVersionError, UnsupportedModelError
from hope_runtime.layers.config import ModelConfig
from hope_runtime.layers.lora import STORED_DTYPE, LoraAdapter, initial
from hope_runtime.models.registry import FAMILIES
from hope_runtime.session.codec import decode_memory, encode_memory
from hope_runtime.session.levels import Level
from hope_runtime.session.memory import SessionMemory, state_bytes_limit
from hope_runtime.session.policy import DEFAULT_POLICY, POLICIES, LearningPolicy
from hope_runtime.session.rank_bound import MAX_STATE_BYTES, within_bound

DOCS = Path(__file__).parents[2] / "docs" / "models.md"


@dataclass(frozen=True)
class Published:
    """A row of the table: a published model, and what the default policy makes of it."""

    name: str
    family: str
    config: ModelConfig
    ranks: list[int]
    megabytes: str


def sized(layers: int, width: int, inner: int) -> ModelConfig:
    """A configuration of these sizes."""
    return ModelConfig(
        vocab_size=256,
        d_model=width,
        n_layers=layers,
        n_heads=4,
        n_kv_heads=4,
        head_dim=width // 4,
        d_ff=inner,
        norm_eps=1e-5,
        rope_theta=10_000.0,
        max_positions=4096,
        tie_embeddings=True,
    )


def published() -> list[Published]:
    found = []
    for line in DOCS.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 7 and cells[2].isdigit():
            name, family, *sizes, ranks, megabytes = cells
            config = sized(*(int(size.replace(",", "")) for size in sizes))
            of = [int(rank) for rank in ranks.split(",")]
            found.append(Published(name, family.strip("`"), config, of, megabytes))
    return found


def ranks_of(policy: LearningPolicy) -> list[int]:
    return [level.rank for level in policy.levels]


@pytest.mark.parametrize("model", published(), ids=lambda model: model.name)
def test_every_policy_stays_within_the_bound(model: Published) -> None:
    for policy in POLICIES.values():
        bounded = within_bound(policy, model.config)
        assert state_bytes_limit(model.config, bounded) <= MAX_STATE_BYTES == 64_000_000
        assert replace(bounded, levels=policy.levels) == policy
    default = within_bound(DEFAULT_POLICY, model.config)
    assert ranks_of(default) == model.ranks
    assert f"{state_bytes_limit(model.config, default) / 1e6:.1f}" == model.megabytes


def test_the_table_has_every_family() -> None:
    assert {model.family for model in published()} == {family.name for family in FAMILIES}


def test_the_default_model_keeps_its_ranks_and_digests() -> None:
    """And whichever other model fits: the very policies, of the same digests."""
    for model in published():
        if model.ranks == [32, 16, 8]:
            for policy in POLICIES.values():
                assert within_bound(policy, model.config) is policy
    kept = {model.name for model in published() if model.ranks == [32, 16, 8]}
    assert {"SmolLM2-135M", "Gemma-3-270M", "Qwen3-0.6B"} <= kept


def test_no_rank_is_larger_than_it_must_be() -> None:
    """Twice the ranks would not fit."""
    for model in published():
        bounded = within_bound(DEFAULT_POLICY, model.config)
        if bounded is not DEFAULT_POLICY:
            doubled = [replace(level, rank=2 * level.rank) for level in bounded.levels]
            larger = replace(bounded, levels=tuple(doubled))
            assert state_bytes_limit(model.config, larger) > MAX_STATE_BYTES


def test_a_model_that_no_rank_fits_is_refused() -> None:
    """Of the sizes of Llama 3.1 405B; the sentence is that of docs/models.md."""
    with pytest.raises(UnsupportedModelError) as refused:
        within_bound(DEFAULT_POLICY, sized(126, 16_384, 53_248))
    assert str(refused.value) in DOCS.read_text("utf-8")


def test_a_session_of_before_the_bound_keeps_its_ranks() -> None:
    """It is read under the ranks that it was stored with; a new one has those of the bound."""
    config = sized(4, 256, 75_000)  # beyond the bound at its own ranks
    policies = {name: within_bound(policy, config) for name, policy in POLICIES.items()}
    assert ranks_of(policies["default"]) == [16, 8, 4]
    stored = SessionMemory.fresh("base", DEFAULT_POLICY)
    how: dict[str, Any] = {"layout": AdapterLayout(config), "fingerprint": "base"}
    read = decode_memory(encode_memory(stored), policies=policies, **how)
    assert read.policy == DEFAULT_POLICY
    assert read.hash() == stored.hash()
    fresh = SessionMemory.fresh("base", policies["default"])
    again = decode_memory(encode_memory(fresh), policies=policies, **how)
    assert again.policy == policies["default"] != DEFAULT_POLICY
    other = replace(DEFAULT_POLICY, seed=1)
    with pytest.raises(StateVersionError, match="default"):
        decode_memory(encode_memory(SessionMemory.fresh("base", other)), policies=policies, **how)


def test_bytes_of_levels_are_what_is_said() -> None:
    config = sized(2, 64, 192)
    adapter = initial(config, 8, seed=0).to(STORED_DTYPE)
    assert isinstance(adapter, LoraAdapter)
    level = Level(DEFAULT_POLICY.levels[2], adapter)
    assert level.learnt is not None
    one = replace(DEFAULT_POLICY, levels=DEFAULT_POLICY.levels[2:])
    assert level.learnt.nbytes == state_bytes_limit(config, one)
