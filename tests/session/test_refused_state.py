"""Stored state that is not what was written is refused with a reason."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stored_state import Blobs, decode, edited, encode, golden

from hope_runtime.errors import (
    CorruptStateError,
    FingerprintMismatchError,
    StateError,
    StateVersionError,
)
from hope_runtime.session.codec import STATE_BLOB, STATE_FORMAT
from hope_runtime.session.memory import SessionMemory


@pytest.fixture
def blobs() -> Blobs:
    return encode(golden.memory())


def test_another_base_model_is_refused(blobs: Blobs) -> None:
    with pytest.raises(FingerprintMismatchError, match="another base model"):
        decode(blobs, fingerprint="other")


@pytest.mark.parametrize("name", [STATE_BLOB, "level.0"])
def test_a_newer_format_is_refused(blobs: Blobs, name: str) -> None:
    blobs[name] = edited(blobs[name], header=lambda h: h.update(format=str(STATE_FORMAT + 1)))
    with pytest.raises(StateVersionError, match=f"format {STATE_FORMAT + 1}"):
        decode(blobs)


def test_a_policy_with_other_constants_is_refused(blobs: Blobs) -> None:
    other = golden.LearningPolicy(name="golden", levels=golden.POLICY.levels)
    for policies in ({}, {"golden": other}):
        with pytest.raises(StateVersionError, match="policy 'golden'"):
            decode(blobs, policies=policies)


@pytest.mark.parametrize("name", [STATE_BLOB, "level.0"])
def test_a_truncated_or_missing_blob_is_corrupt(blobs: Blobs, name: str) -> None:
    data = blobs[name]
    for size in (0, 7, 8, 100, len(data) - 1):
        with pytest.raises(CorruptStateError):
            decode(blobs | {name: data[:size]})
    del blobs[name]
    with pytest.raises(CorruptStateError):
        decode(blobs)


@given(st.data())
def test_random_damage_is_a_typed_error_or_harmless(data: st.DataObject) -> None:
    blobs = encode(golden.memory())
    name = data.draw(st.sampled_from(sorted(blobs)))
    raw = bytearray(blobs[name])
    for at in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=4)):
        raw[at] = data.draw(st.integers(0, 255))
    # Whether the bytes are those that were stored is the store's digest to say.
    with contextlib.suppress(StateError):
        assert isinstance(decode(blobs | {name: bytes(raw)}), SessionMemory)


def _nan(tensors: dict[str, torch.Tensor]) -> None:
    tensors["up_b"][0, 0, 0] = float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update(up_a=t["up_a"].float()), "up_a of a level has dtype torch.float32"),
        (lambda t: t.update(up_a=t["up_a"][:, :1].clone()), r"up_a of a level has .*\(2, 1, 6\)"),
        (lambda t: t.update(extra=t["up_a"].clone()), "extra"),
        (lambda t: t.pop("down_b"), "down_b"),
        (_nan, "non-finite"),
    ],
)
def test_a_level_that_does_not_fit_the_model_is_corrupt(
    blobs: Blobs, change: Callable[[dict[str, torch.Tensor]], None], message: str
) -> None:
    data = edited(blobs["level.0"], tensors=change)
    with pytest.raises(CorruptStateError, match=message):
        decode(blobs | {"level.0": data})


def test_a_blob_of_another_kind_is_corrupt(blobs: Blobs) -> None:
    with pytest.raises(
        CorruptStateError, match="expected a level blob, but found one of kind 'state'"
    ):
        decode(blobs | {"level.0": blobs[STATE_BLOB]})


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.update(pending=t["pending"][:-1]),
        lambda t: t.update(pending=t["pending"].float()),
        lambda t: t.update(recent=t["recent"][None]),
        lambda t: t.update(recent=t["recent"] + 50),
        lambda t: t.update(buffer=-t["buffer"]),
        lambda t: t.pop("pinned"),
    ],
)
def test_token_ids_that_cannot_be_are_corrupt(
    blobs: Blobs, change: Callable[[dict[str, torch.Tensor]], None]
) -> None:
    with pytest.raises(CorruptStateError, match="state of the session cannot be decoded"):
        decode(blobs | {STATE_BLOB: edited(blobs[STATE_BLOB], tensors=change)})


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.pop("flushes"),
        lambda s: s["levels"].pop(),
        lambda s: s["levels"][0].append(1),
        lambda s: s.update(log_digest="zz"),
        lambda s: s["pending"][0].__setitem__(1, "nobody"),
        lambda s: s["conversations"].pop(0),
        lambda s: s.update(policy=["golden"]),
        lambda s: s["taught"].append("0123"),
        lambda s: s.update(taught=["00" * 8] * 1025),
        lambda s: s.update(resume={"default": "00" * 65}),
        lambda s: s.update(resume={"no conversation": "00"}),
    ],
)
def test_fields_that_cannot_be_are_corrupt(
    blobs: Blobs, change: Callable[[dict[str, Any]], None]
) -> None:
    with pytest.raises(CorruptStateError, match="state of the session cannot be decoded"):
        decode(blobs | {STATE_BLOB: edited(blobs[STATE_BLOB], state=change)})
