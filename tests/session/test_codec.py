"""Stored state: whatever was written is read again, forever."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from memories import WINDOW, Ledger, document, fresh, spans_of, turn
from stored_state import GOLDEN, decode, encode, golden, header_of

from hope_runtime.engine.adapter_layout import AdapterLayout
from hope_runtime.errors import CorruptStateError
from hope_runtime.session.codec import (
    FAST_BLOB,
    STATE_BLOB,
    STATE_FORMAT,
    context_blob,
    encode_state,
    level_blob,
)
from hope_runtime.session.fold import replay
from hope_runtime.session.layout import Tensors
from hope_runtime.session.levels import FullRank
from hope_runtime.session.log import Record
from hope_runtime.session.policy import LevelConfig


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
