"""Stored state: what was written is read again, forever; what was not is refused with a reason."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from memories import WINDOW, Ledger, document, fresh, spans_of, turn
from safetensors.torch import load, save

from hope_runtime.engine.adapter_layout import AdapterLayout
from hope_runtime.errors import (
    CorruptStateError,
    FingerprintMismatchError,
    StateError,
    StateVersionError,
)
from hope_runtime.session.codec import (
    FAST_BLOB,
    STATE_BLOB,
    STATE_FORMAT,
    context_blob,
    decode_memory,
    encode_level,
    encode_state,
    level_blob,
)
from hope_runtime.session.fold import replay
from hope_runtime.session.layout import Tensors
from hope_runtime.session.levels import FullRank
from hope_runtime.session.log import Record
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.policy import LevelConfig

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
Blobs = dict[str, bytes]


def _load_golden() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_write", GOLDEN / "write.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


golden = _load_golden()


def encode(memory: SessionMemory) -> Blobs:
    blobs = {STATE_BLOB: encode_state(memory)}
    for index in range(len(memory.levels)):
        if (data := encode_level(memory, index)) is not None:
            blobs[level_blob(index)] = data
    return blobs


def decode(blobs: Blobs, **changes: Any) -> SessionMemory:
    expected = {"policies": {"golden": golden.POLICY}, "layout": AdapterLayout(golden.MODEL)}
    return decode_memory(blobs, **({"fingerprint": golden.FINGERPRINT} | expected | changes))


def header_of(data: bytes) -> dict[str, str]:
    size = int.from_bytes(data[:8], "little")
    fields: dict[str, str] = json.loads(data[8 : 8 + size])["__metadata__"]
    return fields


def edited(
    data: bytes,
    *,
    header: Callable[[dict[str, str]], None] = lambda _: None,
    tensors: Callable[[dict[str, torch.Tensor]], None] = lambda _: None,
    state: Callable[[dict[str, Any]], None] | None = None,
) -> bytes:
    """A blob with a change in its header, its tensors or its JSON, made whole again."""
    fields = header_of(data)
    values = load(data)
    header(fields)
    tensors(values)
    if state is not None:
        content = json.loads(fields["state"])
        state(content)
        fields["state"] = json.dumps(content)
    return save(values, metadata=fields)


@pytest.fixture
def blobs() -> Blobs:
    return encode(golden.memory())


@pytest.mark.parametrize("version", range(1, STATE_FORMAT + 1))
def test_every_format_that_was_ever_written_is_read(version: int) -> None:
    stored = {
        STATE_BLOB: (GOLDEN / f"state.v{version}.safetensors").read_bytes(),
        level_blob(0): (GOLDEN / f"level.0.v{version}.safetensors").read_bytes(),
    }
    facts = json.loads((GOLDEN / f"facts.v{version}.json").read_text("utf-8"))
    memory = decode(stored)
    assert memory.hash() == facts["memory_hash"]
    assert memory.levels_digest() == facts["levels_digest"]
    expected = golden.memory(version)
    for name in ("pending", "buffer", "conversations", "flushes", "log_digest", "taught"):
        assert getattr(memory, name) == getattr(expected, name), name
    documents = dict(expected.documents)
    if version < 4:  # Documents had no digests, and everything else was the same.
        documents = {
            name: replace(item, content=b"") for name, item in documents.items() if item.content
        }
    assert memory.documents == documents
    records = [Record.decode(bytes.fromhex(data)) for data in facts["records"]]
    assert records == [each for each in golden.records(version) if version >= 4 or not each.content]


class AnyLayout(AdapterLayout):
    """Takes what a native engine's layout would look into."""

    def level(self, index: int, config: LevelConfig, tensors: Tensors) -> FullRank:
        return FullRank(tuple(tensors[name] for name in sorted(tensors)))

    def check_fast(self, tensors: Tensors) -> None: ...

    def check_context(self, tensors: Tensors) -> None: ...


@pytest.mark.parametrize("version", range(2, STATE_FORMAT + 1))
def test_every_format_of_what_is_written_forward_is_read(version: int) -> None:
    expected = golden.torch_memory()
    blobs = {
        name: (GOLDEN / f"native.{name.partition('.')[0]}.v{version}.safetensors").read_bytes()
        for name in (STATE_BLOB, "level.0", FAST_BLOB, context_blob("default"))
    }
    facts = json.loads((GOLDEN / f"facts.v{version}.json").read_text("utf-8"))
    memory = decode(blobs, layout=AnyLayout(golden.MODEL))
    assert memory.hash() == facts["native_hash"] == expected.hash()
    assert memory.fast is not None
    assert memory.fast.conversation == expected.fast.conversation
    for found, wanted in (
        (memory.fast.tensors, expected.fast.tensors),
        (memory.conversations["default"].context, expected.conversations["default"].context),
    ):
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    # The engine of a backbone has no place for any of it.
    with pytest.raises(CorruptStateError):
        decode(blobs)


@given(st.lists(st.integers(1, 40), max_size=12), st.booleans(), st.booleans())
def test_a_memory_is_restored_whole(sizes: list[int], learn: bool, ended: bool) -> None:
    spans = spans_of(*sizes) if sizes else []
    records = [turn(spans[:2], learn=learn), document(spans[2:], ended=ended)]
    memory = replay(fresh(), records, Ledger(), window_tokens=WINDOW)
    model = replace(golden.MODEL, vocab_size=600)
    policies = {memory.policy.name: memory.policy}
    restored = decode(
        encode(memory), fingerprint="base", layout=AdapterLayout(model), policies=policies
    )
    assert restored == memory
    assert restored.hash() == memory.hash()


def test_going_on_after_a_restore_is_going_on() -> None:
    first, rest = document(spans_of(*[7] * 9)), document(spans_of(*[7] * 9, start=63), ended=True)
    whole = replay(fresh(), [first, rest], Ledger(), window_tokens=WINDOW)
    half = replay(fresh(), [first], Ledger(), window_tokens=WINDOW)
    model = replace(golden.MODEL, vocab_size=600)
    policies = {half.policy.name: half.policy}
    restored = decode(
        encode(half), fingerprint="base", layout=AdapterLayout(model), policies=policies
    )
    assert replay(restored, [rest], Ledger(), window_tokens=WINDOW) == whole


def test_the_size_of_a_state_does_not_grow_with_the_stream() -> None:
    memory, sizes = fresh(), []
    for index in range(60):
        record = document(spans_of(*[8] * 8, start=index))
        memory = replay(memory, [record], Ledger(), window_tokens=WINDOW)
        sizes.append(len(encode_state(memory)))
    # Counters get longer by a digit now and then.
    assert max(sizes[20:]) <= sizes[20] + 64


def test_older_servers_read_a_state_without_histories() -> None:
    assert header_of(encode_state(golden.memory(4)))["format"] == "4"
    assert header_of(encode_state(golden.memory(5)))["format"] == "5"
    stored = (GOLDEN / "state.v4.safetensors").read_bytes()
    assert header_of(encode_state(golden.memory(4))) == header_of(stored)


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
