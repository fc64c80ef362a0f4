"""Resident rows: bytes are counted right, the budget holds, a row in use is nobody else's."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hope_runtime.engine.arena import Arena, Row

KEYS = st.integers(0, 5)


def row_of(nbytes: int) -> Row:
    return Row(kv=SimpleNamespace(nbytes=nbytes))


class ArenaMachine(RuleBasedStateMachine):
    """Any order of taking, giving and dropping."""

    def __init__(self) -> None:
        super().__init__()
        self.arena = Arena(100)
        self.held: set[int] = set()
        self.recent: list[tuple[int, int]] = []  # (key, bytes), most recently given last

    @rule(key=KEYS)
    def take(self, key: int) -> None:
        if key in self.held:
            with pytest.raises(AssertionError, match="one turn at a time"):
                self.arena.take(key)
            return
        row = self.arena.take(key)
        assert (row and row.nbytes) == dict(self.recent).get(key)
        self.held.add(key)
        self.recent = [item for item in self.recent if item[0] != key]

    @precondition(lambda self: self.held)
    @rule(data=st.data(), size=st.none() | st.integers(0, 120))
    def give(self, data: st.DataObject, size: int | None) -> None:
        key = data.draw(st.sampled_from(sorted(self.held)))
        self.arena.give(key, None if size is None else row_of(size))
        self.held.discard(key)
        if size is not None:
            self.recent.append((key, size))
            while sum(nbytes for _, nbytes in self.recent) > 100:
                self.recent.pop(0)

    @rule(key=KEYS)
    def drop(self, key: int) -> None:
        self.arena.drop(key)
        self.recent = [item for item in self.recent if item[0] != key]

    @invariant()
    def conservation(self) -> None:
        self.arena.check_integrity()
        assert self.arena.held == len(self.held)
        assert len(self.arena) == len(self.recent)
        assert self.arena.nbytes == sum(nbytes for _, nbytes in self.recent) <= 100


TestArenaMachine = ArenaMachine.TestCase
