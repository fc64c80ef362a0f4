"""What a store keeps of a native model's session: what is written when, and what is refused."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable

import pytest
import torch
from hope_sessions import decoded, fresh, read, say
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from hope_runtime.engine.hope_engine import HopeEngine
from hope_runtime.errors import CorruptStateError, StateError
from hope_runtime.session.codec import changed_blobs, context_blob, encode_memory
from hope_runtime.session.log import Record, RecordKind


def edited(data: bytes, change: Callable[[dict[str, torch.Tensor]], None]) -> bytes:
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])["__metadata__"]
    tensors = load(data)
    change(tensors)
    return save(tensors, metadata=header)


def _nan(tensors: dict[str, torch.Tensor]) -> None:
    next(t for t in tensors.values() if t.is_floating_point() and t.numel()).view(-1)[0] = torch.nan


@pytest.mark.parametrize(
    ("name", "blob", "change", "message"),
    [
        ("hope", "fast", lambda t: t.pop("context.layers.0.fast.conv"), "conv"),
        ("hope", "fast", lambda t: t.update(more=torch.zeros(1)), "more"),
        ("hope", "fast", _nan, "non-finite"),
        ("hope", "fast", lambda t: t["segment.ids_BN"].fill_(256), "outside the vocabulary"),
        (
            "hope",
            "fast",
            lambda t: t["segment.length_B"].fill_(9),
            "longer than the model's segments",
        ),
        ("hope", "fast", lambda t: t["segment.length_B"].zero_(), "do not match"),
        ("hope", "fast", lambda t: t["context.position_B"].fill_(-1), "negative"),
        ("hope", "fast", lambda t: t.pop("gathered.1.1"), "gathered"),
        (
            "hope",
            "fast",
            lambda t: t.update({"context.written_B": t["context.written_B"].float()}),
            "written_B",
        ),
        ("hope", "level.0", lambda t: t.pop("theta.1"), "theta.1"),
        ("hope", "level.0", lambda t: t.update({"theta.0": t["theta.0"].half()}), "theta.0"),
        ("hope", "level.1", _nan, "non-finite"),
        ("hope", "context", lambda t: t.pop("position_B"), "position_B"),
        (
            "hope_attention",
            "context",
            lambda t: t.update({"layers.1.window.k": t["layers.1.window.k"][:, :, 1:].clone()}),
            "window.k",
        ),
        (
            "hope_attention",
            "fast",
            lambda t: t.update(
                {
                    name: torch.zeros(1, 2, 99, 8)
                    for name in t
                    if name.startswith("context") and name.endswith((".k", ".v"))
                }
            ),
            "contains 99 tokens",
        ),
    ],
)
def test_what_does_not_fit_the_model_is_corrupt(
    engines: dict[str, HopeEngine],
    name: str,
    blob: str,
    change: Callable[[dict[str, torch.Tensor]], None],
    message: str,
) -> None:
    engine = engines[name]
    memory = say(engine, fresh(engine), "Some text of more than thirty-two bytes.").memory
    memory = say(engine, memory, "Other text.", "b").memory
    blobs = encode_memory(memory)
    if blob == "context":
        blob = context_blob("a")
    blobs[blob] = edited(blobs[blob], change)
    with pytest.raises(CorruptStateError, match=message):
        decoded(engine, blobs)


@given(data=st.data())
@settings(max_examples=30)
def test_no_damage_to_a_blob_is_worse_than_a_typed_error(
    engines: dict[str, HopeEngine], data: st.DataObject
) -> None:
    engine = engines["hope_attention"]
    memory = say(engine, fresh(engine), "Some text of some length.").memory
    blobs = encode_memory(say(engine, memory, "Other.", "b").memory)
    name = data.draw(st.sampled_from(sorted(blobs)))
    raw = bytearray(blobs[name])
    for at in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=4)):
        raw[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    for damaged in (bytes(raw), bytes(raw[:cut])):
        # Whether the bytes are those that were stored is the store's digest to say.
        with contextlib.suppress(StateError):
            assert decoded(engine, blobs | {name: damaged}).fast is not None


@pytest.mark.parametrize("blob", ["fast", "level.0", "context"])
def test_a_blob_that_is_missing_is_named(engine: HopeEngine, blob: str) -> None:
    memory = say(engine, fresh(engine), "Some text of more than thirty-two bytes.").memory
    blobs = encode_memory(say(engine, memory, "Other.", "b").memory)
    del blobs[context_blob("a") if blob == "context" else blob]
    with pytest.raises(CorruptStateError, match=f"{blob}.* is missing"):
        decoded(engine, blobs)


def test_a_turn_writes_only_what_it_changed(engine: HopeEngine) -> None:
    memory = fresh(engine)
    first = say(engine, memory, "Four").memory
    assert changed_blobs(memory, first)[0].keys() == {"state", "fast"}
    second = say(engine, first, "Five", "b").memory
    # The fast level has come to its boundary, and the first conversation was set aside.
    assert changed_blobs(first, second)[0].keys() == {"state", "fast", "level.0", context_blob("a")}
    back = say(engine, second, "Six", "a").memory
    blobs, gone = changed_blobs(second, back)
    assert blobs.keys() == {"state", "fast", context_blob("b")}
    assert gone == {context_blob("a")}
    blobs, gone = changed_blobs(back, back)
    assert (blobs.keys(), gone) == ({"state"}, frozenset())
    reset = read(engine, [Record(RecordKind.RESET, levels=(0,))], back)
    assert changed_blobs(back, reset)[1] == {"level.0"}
