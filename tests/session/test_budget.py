"""The account of documents: what they grant, when, and what is charged."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hope_runtime.errors import CorruptStateError
from hope_runtime.session.budget import LEAST_TOKENS, NO_BUDGET, Account
from hope_runtime.session.fold import observe
from hope_runtime.session.log import Record, RecordKind, Segment, Speaker
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.policy import DEFAULT_POLICY


def read(count: int, budget: float | None = 2.0, document: str = "a") -> Record:
    segment = Segment(Speaker.DOCUMENT, tuple((7,) for _ in range(count)), learnable=True)
    return Record(
        RecordKind.DOCUMENT, "c", (segment,) if count else (), document=document, budget=budget
    )


def after(*records: Record) -> SessionMemory:
    memory = SessionMemory.fresh("base", DEFAULT_POLICY)
    for record in records:
        memory = observe(memory, record, window_tokens=64)
    return memory


def test_what_was_read_without_a_budget_has_no_limit() -> None:
    memory = after(read(5, budget=None))
    assert memory.budget == NO_BUDGET
    assert memory.budget.settled(5).allowance(final=True) is None


def test_a_boundary_settles_what_lies_before_it_however_the_text_was_cut() -> None:
    at_once = after(read(0), read(10)).budget
    pieces = after(read(0), read(3), read(0), read(7)).budget
    assert at_once == pieces
    for position in (4, 10):
        assert at_once.settled(position) == pieces.settled(position)
    halves = at_once.settled(4).settled(10)
    assert halves.account == Account(2.0, earned=20.0) == at_once.settled(10).account
    assert halves.grants == ()


def test_a_budget_is_spent_once() -> None:
    budget = after(read(1000)).budget.settled(1000).charged(600)
    allowance = budget.allowance(final=False)
    assert allowance is not None
    assert (allowance.earned, allowance.most) == (1400, 2 * LEAST_TOKENS - 600)


def test_a_new_document_takes_nothing_over_and_one_that_goes_on_does() -> None:
    memory = after(read(1000), read(10, budget=3.0, document="b"))
    budget = memory.budget.settled(1000).charged(100)
    assert budget.account == Account(2.0, 2000.0, 100)
    assert budget.settled(1010).account == Account(3.0, 30.0, 0)
    went_on = observe(memory, read(5), window_tokens=64).budget.settled(1015)
    assert went_on.account == Account(2.0, 40.0, 0)


def test_the_log_digest_and_the_record_hold_the_budget() -> None:
    with_it, without = read(3), read(3, budget=None)
    assert after(with_it).log_digest != after(without).log_digest
    assert after(with_it).log_digest != after(replace(with_it, budget=1.0)).log_digest
    assert Record.decode(with_it.encode()) == with_it
    assert Record.decode(without.encode()) == without


@pytest.mark.parametrize("budget", [-1.0, 1e9, float("nan")])
def test_a_record_with_an_impossible_budget_is_refused(budget: float) -> None:
    with pytest.raises(CorruptStateError, match="cannot be decoded"):
        Record.decode(read(1, budget=budget).encode())
