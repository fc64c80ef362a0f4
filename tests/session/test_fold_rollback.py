"""Rollbacks in the fold: a session is what counted then."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from memories import WINDOW, Ledger, caught_up, document, fresh, seen, turn

from hope_runtime.session.effective import effective
from hope_runtime.session.fold import due, observe, replay
from hope_runtime.session.log import Record, RecordKind

END = Record(RecordKind.END_CONVERSATION, "default")
CONSOLIDATE = Record(RecordKind.CONSOLIDATE)


def rollback(to: int) -> Record:
    return Record(RecordKind.ROLLBACK, target_seq=to)


A, B, C, D = (document([(index,)]) for index in range(4))


@pytest.mark.parametrize(
    ("records", "kept"),
    [
        ([A, B, rollback(1), C], [A, C]),
        ([A, rollback(0), B], [B]),
        ([A, B, C, rollback(2), D, rollback(1)], [A]),
        ([A, B, C, rollback(1), D, rollback(3)], [A, B, C]),  # back to what was taken back
        ([A, B, rollback(1), C, rollback(3), D], [A, D]),  # to the version a rollback made
        ([A, B, rollback(1), C, rollback(4)], [A, C]),
        ([], []),
    ],
)
def test_a_rollback_returns_to_what_counted_then(records: list[Record], kept: list[Record]) -> None:
    assert effective(records) == kept


def test_a_rollback_cannot_be_observed() -> None:
    with pytest.raises(ValueError, match="rollback"):
        seen(rollback(0))


class FoldMachine(RuleBasedStateMachine):
    """A session beside the fold of its log: always the same memory, rollbacks included."""

    @initialize()
    def begin(self) -> None:
        self.memory = fresh()
        self.log: list[Record] = []
        self.versions = [(0, self.memory)]
        self.next_id = 0

    def happen(self, make: Callable[[tuple[int, ...]], Record], size: int) -> None:
        ids = tuple(range(self.next_id, self.next_id + size))
        self.next_id += size
        record = make(ids)
        self.log.append(record)
        memory = observe(self.memory, record, window_tokens=WINDOW)
        self.memory = caught_up(memory, Ledger())
        if self.memory.levels != memory.levels:
            self.versions.append((len(self.log), self.memory))

    @rule(size=st.integers(1, 50), learn=st.booleans())
    def say(self, size: int, learn: bool) -> None:
        self.happen(lambda ids: turn([ids], learn=learn), size)

    @rule(size=st.integers(1, 50), ended=st.booleans())
    def read(self, size: int, ended: bool) -> None:
        self.happen(lambda ids: document([ids], ended=ended), size)

    @rule(event=st.sampled_from([END, CONSOLIDATE]))
    def flush(self, event: Record) -> None:
        self.happen(lambda _: event, 0)

    @rule(data=st.data())
    def go_back(self, data: st.DataObject) -> None:
        seq, self.memory = data.draw(st.sampled_from(self.versions))
        self.log.append(rollback(seq))
        self.versions.append((len(self.log), self.memory))

    @invariant()
    def memory_is_the_fold_of_the_log(self) -> None:
        assert replay(fresh(), self.log, Ledger(), window_tokens=WINDOW) == self.memory

    @invariant()
    def what_waits_is_bounded(self) -> None:
        assert due(self.memory) is None
        assert self.memory.pending_tokens <= self.memory.levels[0].config.period_tokens + 50


TestFoldMachine = FoldMachine.TestCase
TestFoldMachine.settings = settings(max_examples=40, stateful_step_count=25)
