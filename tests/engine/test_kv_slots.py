"""Slots and memories: nothing is lost or used twice, and the budget holds."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from memories import POLICY

from hope_runtime.engine.kv_slots import Memories, Slot, SlotPool
from hope_runtime.layers.lora import initial
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.memory import SessionMemory

KEYS = st.integers(0, 5)
SLOTS = 3
SLOT_BYTES = 10


class ArenaMachine(RuleBasedStateMachine):
    """Any order of taking, giving and dropping."""

    def __init__(self) -> None:
        super().__init__()
        slots = [SimpleNamespace(nbytes=SLOT_BYTES, truncate=lambda _: None) for _ in range(SLOTS)]
        self.slot_pool = SlotPool(slots)
        self.held: dict[int, Slot] = {}
        self.kept: dict[int, Slot] = {}  # most recently given last

    @rule(key=KEYS)
    def take(self, key: int) -> None:
        if key in self.held or len(self.held) == SLOTS:
            with pytest.raises(AssertionError):
                self.slot_pool.take(key)
            return
        known = self.kept.pop(key, None)
        row = self.slot_pool.take(key)
        assert (row is known) if known else not row.tokens
        assert row.kv not in [other.kv for other in self.held.values()]
        if len(self.held) + len(self.kept) == SLOTS:
            self.kept.pop(next(iter(self.kept)))  # the least recently used makes room
        row.tokens = (key,)
        self.held[key] = row

    @precondition(lambda self: self.held)
    @rule(data=st.data(), keep=st.booleans())
    def give(self, data: st.DataObject, keep: bool) -> None:
        key = data.draw(st.sampled_from(sorted(self.held)))
        row = self.held.pop(key)
        self.slot_pool.give(key, row, keep=keep)
        if keep:
            self.kept[key] = row

    @rule(key=KEYS)
    def drop(self, key: int) -> None:
        self.slot_pool.drop(key)
        self.kept.pop(key, None)

    @invariant()
    def conservation(self) -> None:
        self.slot_pool.check_integrity()
        assert self.slot_pool.held == len(self.held)
        assert self.slot_pool.room == SLOTS - len(self.held)
        assert len(self.slot_pool) == len(self.kept)
        assert self.slot_pool.nbytes == SLOT_BYTES * (len(self.held) + len(self.kept))


TestArenaMachine = ArenaMachine.TestCase


def taught_memory(model: BaseModel, seed: int = 0) -> SessionMemory:
    """A memory whose fastest level has learnt something."""
    memory = SessionMemory.fresh(model.fingerprint, POLICY)
    level = replace(memory.levels[0], adapter=initial(model.config, 4, seed), updates=1)
    return replace(memory, levels=(level, *memory.levels[1:]))


def test_windows_of_one_memory_share_its_terms(tiny_model: BaseModel) -> None:
    memories = Memories(1 << 30, tiny_model.dtype)
    memory = taught_memory(tiny_model)
    adapter = memories.adapter(memory)
    assert adapter is not None
    assert memories.adapter(memory) is adapter
    assert memories.nbytes == adapter.nbytes


def test_the_least_recently_used_memory_leaves_first(tiny_model: BaseModel) -> None:
    taught = [taught_memory(tiny_model, seed=seed) for seed in range(3)]
    size = taught[0].adapter.to(tiny_model.dtype).nbytes
    memories = Memories(2 * size, tiny_model.dtype)
    first, second = memories.adapter(taught[0]), memories.adapter(taught[1])
    assert memories.adapter(taught[0]) is first
    memories.adapter(taught[2])
    assert (len(memories), memories.nbytes) == (2, 2 * size)
    assert memories.adapter(taught[0]) is first
    assert memories.adapter(taught[1]) is not second


def test_a_budget_of_nothing_keeps_nothing(tiny_model: BaseModel) -> None:
    memories = Memories(0, tiny_model.dtype)
    assert memories.adapter(taught_memory(tiny_model)) is not None
    assert (len(memories), memories.nbytes) == (0, 0)
