"""Records that count without what was forgotten, and the log that leaves the server without it."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from memories import WINDOW, Ledger, document, fresh, seen, spans_of, turn

from hope_runtime.session.content import EMPTY
from hope_runtime.session.effective import Piece, counted, effective, pieces, redacted
from hope_runtime.session.fold import replay
from hope_runtime.session.log import Place, Record, RecordKind, Segment, Speaker
from hope_runtime.session.log_digest import extend_digest
from hope_runtime.session.memory import SessionMemory

END = Record(RecordKind.END_CONVERSATION, "default")


def forget(*places: tuple[int, int, int]) -> Record:
    return Record(RecordKind.FORGET, places=tuple(Place(*place) for place in places))


def rollback(to: int) -> Record:
    return Record(RecordKind.ROLLBACK, target_seq=to)


def folded(*records: Record) -> SessionMemory:
    return replay(fresh(), records, Ledger(), window_tokens=WINDOW)


def test_a_turn_without_its_statement_was_never_said() -> None:
    log = [turn([(50, 51)]), turn([(60,)]), turn([(70, 71)])]
    left = effective([*log, forget((2, 0, 1))])
    assert left[0] == log[0]  # before the statement nothing can repeat it
    assert [segment.speaker for segment in left[1].segments] == [Speaker.TEMPLATE, Speaker.USER]
    assert left[2].kind is RecordKind.FORGET
    memory, never = folded(*log, forget((2, 0, 1))), folded(log[0], log[2])
    assert (memory.pending, memory.levels) == (never.pending, never.levels)
    assert not memory.conversations


def test_what_is_left_of_a_span_keeps_its_places() -> None:
    record = turn([(50, 51, 52, 53, 54), (60, 61)])
    cut = [Place(1, 1, 2), Place(1, 3, 6)]
    assert list(pieces(record)) == [
        Piece(0, Speaker.USER, (50, 51, 52, 53, 54)),
        Piece(5, Speaker.USER, (60, 61)),
    ]
    left = [
        Piece(0, Speaker.USER, (50,)),
        Piece(2, Speaker.USER, (52,)),
        Piece(6, Speaker.USER, (61,)),
    ]
    assert list(pieces(record, cut)) == left
    now = counted([record, forget(*cut)])
    assert now.pieces([record], 1) == left
    assert [span.ids for span in seen(*now.records.values()).pending] == [(50,), (52,), (61,)]


def test_windows_begin_anew_and_learning_goes_on() -> None:
    told = [turn([(50, 51)]), turn([(60,)], conversation="other"), document([(7, 8)])]
    memory = folded(*told, forget((1, 0, 2)), turn([(90,)]))
    assert memory.conversations["default"].window.tokens == (1, 2, 3, 90, 9, 9, 2)
    assert list(memory.conversations) == ["default"]
    assert [span.ids for span in memory.pending] == [(60,), (7, 8), (90,)]


def test_a_document_stays_read_without_its_sentence() -> None:
    def read(span: tuple[int, ...], size: int, **fields: object) -> Record:
        record = replace(document([span]), committed_bytes=size, content=EMPTY + b"x" * (size % 64))
        return replace(record, **fields)  # type: ignore[arg-type]

    log = [
        read((1,), 10, tail=b"My sis"),
        read((2, 3), 20, tail=b"I li"),
        read((4,), 30, tail=b"."),
    ]
    memory = folded(*log, forget((2, 0, 2)))
    assert memory.documents["d"] == replace(folded(*log).documents["d"], content=b"")
    # Its beginning was undecided bytes of the record before.
    assert [record.tail for record in effective([*log, forget((2, 0, 2))])[:3]] == [b"", b"", b"."]
    ended = replace(document([], ended=True), committed_bytes=30, content=b"d" * 32)
    assert folded(*log, ended, forget((2, 0, 2))).documents["d"].content == b"d" * 32


def test_a_rollback_takes_a_forgetting_back() -> None:
    log = [turn([(50,)]), turn([(60,)]), forget((1, 0, 1)), rollback(2)]
    assert effective(log) == log[:2]
    assert redacted(log) == log
    again = [*log, forget((2, 0, 1))]
    assert [record.tokens for record in effective(again)[:1]] == [log[0].tokens]


def test_what_was_taken_back_does_not_leave_the_server() -> None:
    log = [turn([(50,)]), turn([(60,)]), rollback(1), turn([(70,)]), forget((4, 0, 1))]
    ids = [record.tokens for record in redacted(log)]
    assert ids == [log[0].tokens, (0,), (), (0,), ()]
    assert len(redacted(log)) == len(log)


SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=4)


@given(st.data())
def test_a_redacted_log_is_the_same_log_without_the_text(data: st.DataObject) -> None:
    log: list[Record] = []
    next_id = 100
    for _ in range(data.draw(st.integers(1, 14))):
        kind = data.draw(st.sampled_from(["turn", "read", "forget", "drop", "back", "end"]))
        if kind in ("turn", "read"):
            sizes = data.draw(SIZES)
            spans = spans_of(*sizes, start=next_id)
            next_id += sum(sizes)
            learn = data.draw(st.booleans())
            name = data.draw(st.sampled_from("ab"))
            made = turn(spans, learn=learn) if kind == "turn" else document(spans, name=name)
            log.append(made)
        elif kind == "back":
            log.append(rollback(data.draw(st.integers(0, len(log)))))
        elif kind == "drop":
            log.append(Record(RecordKind.FORGET, document=data.draw(st.sampled_from("ab"))))
        elif kind == "end":
            log.append(END)
        else:
            now = counted(log)
            known = [(seq, each) for seq in now.records for each in now.pieces(log, seq)]
            if known:
                chosen = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=3))
                log.append(forget(*((seq, each.start, each.stop) for seq, each in chosen)))
    left = redacted(log)
    assert effective(left) == effective(log)
    assert redacted(left) == left
    assert [record.kind for record in left] == [record.kind for record in log]
    assert [each.learnable_tokens for each in left] == [each.learnable_tokens for each in log]
    assert folded(*left) == folded(*log)
    now = counted(log)
    standing = {seq for seq in now.records if log[seq - 1].kind is RecordKind.FORGET}
    text = {id_ for record in left for id_ in record.tokens}
    for seq in standing:
        for place in log[seq - 1].places:
            for each in pieces(log[place.seq - 1]):
                gone = each.ids[max(0, place.start - each.start) : max(0, place.stop - each.start)]
                assert not text & set(gone)


def test_the_digest_tells_that_something_was_forgotten() -> None:
    def digest(*records: Record) -> bytes:
        value = bytes(32)
        for record in effective(records):
            value = extend_digest(value, record)
        return value

    said = turn([(50,)])
    assert digest(said, forget((1, 0, 1))) != digest()
    assert digest(said, forget((1, 0, 1))) == digest(*redacted([said, forget((1, 0, 1))]))
    learnt_reply = replace(
        said, segments=(*said.segments[:2], Segment(Speaker.ASSISTANT, ((9,),), learnable=True))
    )
    left = effective([learnt_reply, forget((1, 0, 1))])[0]
    assert [each.ids for each in pieces(left)] == [(9,)]
