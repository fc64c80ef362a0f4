"""The fold: what a record changes, and when a level is due, from the log alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memories import WINDOW, Ledger, caught_up, document, fresh, seen, spans_of, turn

from hope_runtime.errors import WindowOverflowError
from hope_runtime.learning import Learner
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.fold import due, observe, replay, with_learning, with_window
from hope_runtime.session.log import Record, RecordKind
from hope_runtime.session.memory import (
    MAX_CONVERSATIONS,
    MAX_DOCUMENTS,
    SessionMemory,
    state_bytes_limit,
)

END = Record(RecordKind.END_CONVERSATION, "default")
CONSOLIDATE = Record(RecordKind.CONSOLIDATE)
SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=20)


def folded(*records: Record) -> tuple[SessionMemory, Ledger]:
    learner = Ledger()
    return replay(fresh(), records, learner, window_tokens=WINDOW), learner


# When a level is due


def test_boundaries_come_in_the_order_of_the_stream_and_the_fast_level_first() -> None:
    _, learner = folded(document(spans_of(*[8] * 20)))  # 160 tokens in one record
    assert learner.boundaries == [
        (0, 32),
        (0, 64),
        (1, 64),
        (0, 96),
        (0, 128),
        (1, 128),
        (2, 128),
        (0, 160),
    ]


def test_a_level_changes_at_its_multiples_and_nowhere_else() -> None:
    memory = fresh()
    learner = Ledger()
    for count in range(1, 200):
        memory = caught_up(seen(document([(count,)]), memory=memory), learner)
        for level in memory.levels:
            period = level.config.period_tokens
            assert level.learnt_through == count // period * period


def test_a_short_input_waits() -> None:
    memory = seen(document(spans_of(10, 10)))
    assert due(memory) is None
    assert memory.pending_tokens == memory.observed_tokens == 20


@pytest.mark.parametrize("event", [END, CONSOLIDATE, document([], ended=True)])
def test_an_event_makes_the_fast_level_learn_what_waits(event: Record) -> None:
    memory, learner = folded(document(spans_of(10, 10)), event)
    assert learner.boundaries == [(0, 20)]
    assert not memory.pending
    assert not memory.flushes
    again, learner = folded(document(spans_of(10, 10)), event, event, CONSOLIDATE)
    assert learner.boundaries == [(0, 20)]  # with nothing new there is nothing to learn
    assert again.levels == memory.levels


def test_multiples_are_counted_from_the_beginning_not_from_a_flush() -> None:
    _, learner = folded(document(spans_of(10, 10)), CONSOLIDATE, document(spans_of(*[4] * 12)))
    assert learner.boundaries == [(0, 20), (0, 32), (0, 64), (1, 64)]


def test_a_span_that_a_boundary_cuts_waits_for_its_end() -> None:
    memory, learner = folded(document(spans_of(20, 20, 20)))  # 32 falls into the second span
    assert [[span.end for span in spans] for _, spans in learner.served] == [[20]]
    assert [span.start for span in memory.pending] == [20, 40]
    _, learner = folded(document(spans_of(20, 20, 20)), document(spans_of(4)))
    assert [[span.end for span in spans] for _, spans in learner.served[:2]] == [[20], [40, 60, 64]]


@given(SIZES, st.data())
def test_every_span_is_learnt_once_by_the_fast_level(sizes: list[int], data: st.DataObject) -> None:
    flushes = data.draw(st.sets(st.integers(0, len(sizes))))
    records = []
    for index, span in enumerate(spans_of(*sizes)):
        records += [document([span]), *([CONSOLIDATE] if index in flushes else [])]
    memory, learner = folded(*records, CONSOLIDATE)
    taught = [s for boundary, spans in learner.served if boundary.level == 0 for s in spans]
    assert [span.ids for span in taught] == spans_of(*sizes)
    assert memory.levels[0].learnt_tokens == sum(sizes) == memory.observed_tokens


# However the text was cut


@given(SIZES, st.data())
def test_the_memory_does_not_depend_on_the_records(sizes: list[int], data: st.DataObject) -> None:
    spans = spans_of(*sizes)
    whole, once = folded(document(spans, ended=True))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(spans)), max_size=6)))
    parts = [spans[i:j] for i, j in zip([0, *cuts], [*cuts, len(spans)], strict=True)]
    cut, often = folded(*[document(part) for part in parts], document([], ended=True))
    assert cut.hash() == whole.hash()
    assert often.served == once.served
    assert cut.conversations == whole.conversations
    assert cut.pending == whole.pending


def test_one_record_or_two_hundred_teach_the_same_bit_for_bit(chat_model: BaseModel) -> None:
    spans = spans_of(*[3] * 200, start=300)
    learner = Learner(chat_model)
    hashes = set()
    for size in (1, 7, 200):
        records = [document(spans[at : at + size]) for at in range(0, 200, size)]
        memory = replay(
            fresh(), [*records, document([], ended=True)], learner, window_tokens=WINDOW
        )
        assert memory.levels[0].updates == 19
        hashes.add(memory.hash())
    assert len(hashes) == 1


# What must not count


def test_without_learning_no_counter_moves() -> None:
    before = seen(document(spans_of(10)))
    records = [turn(spans_of(50), learn=False), document(spans_of(90), learn=False, ended=True)]
    after = seen(*records[:1], memory=before)
    assert after.conversations["default"].window.position == 10 + 56
    assert (after.observed_tokens, after.pending, after.levels, after.flushes) == (
        before.observed_tokens,
        before.pending,
        before.levels,
        before.flushes,
    )
    assert due(after) is None
    # The end of a document is an event of its own, which teaches what waited before it.
    assert due(seen(*records, memory=before)) is not None


def test_template_and_reply_are_context_only() -> None:
    memory = seen(turn([(50, 51)]))
    assert [span.ids for span in memory.pending] == [(50, 51)]
    assert memory.conversations["default"].window.tokens == (1, 2, 3, 50, 51, 9, 9, 2)


def test_a_report_changes_nothing() -> None:
    before = seen(turn([(50, 51)]))
    assert seen(Record(RecordKind.CONSOLIDATION, notes={"level": 0}), memory=before) == before


def test_a_policy_without_levels_learns_nothing() -> None:
    memory = seen(
        document(spans_of(500), ended=True), memory=fresh(replace(fresh().policy, levels=()))
    )
    assert due(memory) is None


def test_a_record_that_cannot_be_pinned_leaves_the_memory() -> None:
    before = seen(document(spans_of(10)))
    with pytest.raises(WindowOverflowError):
        observe(before, replace(turn(spans_of(90)), pinned=60), window_tokens=WINDOW)
    assert before == seen(document(spans_of(10)))


# Conversations and documents


def test_a_conversation_ends_and_begins_again_empty() -> None:
    memory = seen(turn([(5,)]), turn([(6,)], conversation="work"), END)
    assert list(memory.conversations) == ["work"]
    assert seen(turn([(7,)]), memory=memory).conversations["default"].turns == 1


def test_only_the_most_recent_conversations_and_documents_are_kept() -> None:
    memory = fresh()
    for index in range(100):
        memory = seen(
            turn([(5,)], conversation=f"c{index}"),
            turn([(5,)], conversation="default"),
            document([(5,)], name=f"d{index}"),
            memory=memory,
        )
    assert len(memory.conversations) == MAX_CONVERSATIONS
    assert {"c99", "default"} <= set(memory.conversations)
    assert list(memory.documents) == [f"d{index}" for index in range(100 - MAX_DOCUMENTS, 100)]


def test_another_window_size_changes_windows_and_nothing_else() -> None:
    memory = seen(document(spans_of(*[10] * 20)))
    other = with_window(memory, 24)
    assert len(other.conversations["default"].window.tokens) <= 24
    assert other.hash() == memory.hash()
    assert with_window(other, 24) == other


def test_the_levels_of_a_session_have_a_known_largest_size(base_model: BaseModel) -> None:
    assert state_bytes_limit(base_model.config, fresh().policy) == 190_080 * 2 * (4 + 2 + 1)


# Turns beside a consolidation


@settings(max_examples=60)
@given(told=SIZES, meanwhile=st.lists(SIZES, max_size=4), learn=st.booleans())
def test_a_turn_beside_a_consolidation_gives_the_memory_of_one_behind_it(
    told: list[int], meanwhile: list[list[int]], learn: bool
) -> None:
    before = seen(turn(spans_of(*told)), END)
    turns = [
        turn(spans_of(*sizes, start=1000 * index), learn=learn, conversation=f"c{index}")
        for index, sizes in enumerate(meanwhile, start=1)
    ]
    behind = caught_up(before, Ledger())
    beside = with_learning(before, behind, seen(*turns, memory=before))
    behind = seen(*turns, memory=behind)
    assert beside == behind
    assert caught_up(beside, Ledger()).hash() == caught_up(behind, Ledger()).hash()


def test_a_real_consolidation_commutes_with_a_turn(chat_model: BaseModel) -> None:
    learner, more = Learner(chat_model, 1), turn([(5, 6, 7, 8)] * 12, conversation="next")
    before = replace(seen(turn([(3, 4, 5)] * 6), END), fingerprint=chat_model.fingerprint)
    behind = caught_up(before, learner)
    beside = with_learning(before, behind, seen(more, memory=before))
    hashes = [caught_up(memory, learner).hash() for memory in (beside, seen(more, memory=behind))]
    assert hashes[0] == hashes[1]
    assert beside.levels[0].updates == 1


@pytest.mark.parametrize(
    "event",
    [
        END,
        document(spans_of(3), ended=True),
        Record(RecordKind.FREEZE, levels=(0,)),
        Record(RecordKind.RESET, levels=(0,)),
    ],
)
def test_only_turns_come_beside_a_consolidation(event: Record) -> None:
    before = seen(turn(spans_of(8, 8)), CONSOLIDATE, turn(spans_of(4), conversation="default"))
    with pytest.raises(ValueError, match="only turns"):
        with_learning(before, caught_up(before, Ledger()), seen(event, memory=before))
