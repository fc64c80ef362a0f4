"""Policies by their names and digests: sessions stay under the constants that they learnt with."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hope_runtime.engine.adapter_layout import AdapterLayout
from hope_runtime.errors import StateVersionError
from hope_runtime.session.codec import STATE_BLOB, decode_memory, encode_memory, level_blob
from hope_runtime.session.policy import (
    DEFAULT_POLICY,
    POLICIES,
    REPLAY_POLICY,
    SUMMED_GRADIENT_POLICY,
    UNASKED_POLICY,
    UNGUARDED_POLICY,
    UNGUARDED_REPLAY_POLICY,
    UNGUARDED_UNASKED_POLICY,
    ReplayConfig,
    SpecificConfig,
    stored_policy,
)

GOLDEN = Path(__file__).parents[1] / "golden"
# What sessions are stored under: a change of these makes every one of them unreadable.
DIGESTS = {
    "unasked": "7d4ecb0955139d67d409b075b3f7eed05170f04c3ce69d058b8f373b463bf0b1",
    "unguarded_unasked": "b8799a9be4812f0863d59a1f62dc60952ba1e7aa0023c8bf9878d81b43236a74",
    "replay": "ad65123b2f9690e6862bc396263f09ddba1179f521c0b185b0255e61ad2f617b",
    "unguarded_replay": "a149777567e1285ab6e218196b23f7c9366fabc00069e312e5c91d36850d9835",
    "summed_gradient": "d8bc0b4c09c942775f6b1f39e12ec2445cd83eda8f86b9acc47c46f2895a833b",
    "forward": "e518b5d3fa62f8c6dd3c29b53156c628699aedbbeececd29a6e1a26cb1e7b51a",
}


def test_digests_of_policies_that_sessions_are_stored_under_stay() -> None:
    assert {name: POLICIES[name].digest() for name in DIGESTS} == DIGESTS


def test_only_constants_of_the_own_recipe_count() -> None:
    replay, specific = ReplayConfig(statement_price=1.0), SpecificConfig(steps=3)
    for policy, same, other in (
        (REPLAY_POLICY, {"specific": specific}, {"replay": replay}),
        (DEFAULT_POLICY, {"replay": replay}, {"specific": specific}),
    ):
        assert replace(policy, **same).digest() == policy.digest()
        assert replace(policy, **other).digest() != policy.digest()
    both = {"replay": replay, "specific": specific}
    assert replace(SUMMED_GRADIENT_POLICY, **both).digest() == SUMMED_GRADIENT_POLICY.digest()


def test_a_renamed_policy_is_found_by_the_name_it_was_stored_under() -> None:
    found = [
        stored_policy(POLICIES, name, policy.digest())
        for name, policy in (
            ("default", DEFAULT_POLICY),
            ("unguarded", UNGUARDED_POLICY),
            ("default", UNASKED_POLICY),
            ("unguarded", UNGUARDED_UNASKED_POLICY),
            ("default", REPLAY_POLICY),
            ("replay", REPLAY_POLICY),
            ("unguarded", UNGUARDED_REPLAY_POLICY),
        )
    ]
    assert [policy and policy.name for policy in found] == [
        *("default", "unguarded", "unasked", "unguarded_unasked"),
        *("replay", "replay", "unguarded_replay"),
    ]
    assert stored_policy(POLICIES, "summed_gradient", REPLAY_POLICY.digest()) is None
    assert stored_policy(POLICIES, "default", "another") is None
    assert stored_policy({}, "default", DEFAULT_POLICY.digest()) is None


def test_a_session_of_the_former_default_policy_goes_on_under_it() -> None:
    """The files were written by the code before the default policy changed."""
    sys.path.insert(0, str(GOLDEN))
    try:
        import write as golden  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(GOLDEN))
    facts = json.loads((GOLDEN / "default_policy.facts.v3.json").read_text("utf-8"))
    stored = {
        STATE_BLOB: (GOLDEN / "default_policy.state.v3.safetensors").read_bytes(),
        level_blob(0): (GOLDEN / "default_policy.level.0.v3.safetensors").read_bytes(),
    }
    how = {"layout": AdapterLayout(golden.MODEL), "fingerprint": golden.FINGERPRINT}
    memory = decode_memory(stored, policies=POLICIES, **how)
    assert memory.policy is REPLAY_POLICY
    assert memory.hash() == facts["memory_hash"]
    assert memory.policy.digest() == facts["policy_digest"]
    again = decode_memory(encode_memory(memory), policies=POLICIES, **how)
    assert again.policy is REPLAY_POLICY
    assert again.hash() == facts["memory_hash"]
    with pytest.raises(StateVersionError, match="default"):
        decode_memory(stored, policies={"default": DEFAULT_POLICY}, **how)
