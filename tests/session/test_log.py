"""Records of the log: what is written is read again, damage is noticed, cuts leave no mark."""

from __future__ import annotations

import contextlib
import json
import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hope_runtime.errors import CorruptStateError, StateVersionError
from hope_runtime.session.content import EMPTY
from hope_runtime.session.log import (
    RECORD_FORMAT,
    Place,
    Record,
    RecordKind,
    Segment,
    Speaker,
)
from hope_runtime.session.log_digest import extend_digest

SPANS = st.lists(st.lists(st.integers(0, 2**32 - 1), max_size=5).map(tuple), max_size=4).map(tuple)
SEGMENTS = st.builds(Segment, st.sampled_from(Speaker), SPANS, st.booleans())
NAMES = st.text(max_size=8)
COUNTS = st.integers(0, 2**40)
RECORDS = st.builds(
    Record,
    kind=st.sampled_from(RecordKind),
    conversation=NAMES,
    segments=st.lists(SEGMENTS, max_size=4).map(tuple),
    pinned=COUNTS,
    document=NAMES,
    committed_bytes=COUNTS,
    tail=st.binary(max_size=8),
    ended=st.booleans(),
    target_version=COUNTS,
    target_seq=COUNTS,
    places=st.lists(st.builds(Place, COUNTS, COUNTS, COUNTS), max_size=2).map(tuple),
    time=COUNTS,
    notes=st.dictionaries(NAMES, st.integers() | st.floats(allow_nan=False), max_size=2),
)
TURN = Record(
    RecordKind.TURN,
    "default",
    (
        Segment(Speaker.TEMPLATE, ((1, 9),)),
        Segment(Speaker.USER, ((100, 101, 102), (103,)), learnable=True),
        Segment(Speaker.ASSISTANT, ((7, 2),)),
    ),
    pinned=2,
)
ZERO = bytes(32)


def document(*spans: tuple[int, ...], ended: bool = False, committed: int = 0) -> Record:
    segments = (Segment(Speaker.DOCUMENT, spans, True),) if spans else ()
    return Record(
        RecordKind.DOCUMENT,
        "c",
        segments,
        document="d",
        committed_bytes=committed,
        tail=b"x" * (committed % 3),
        ended=ended,
    )


def digest(*records: Record) -> bytes:
    value = ZERO
    for record in records:
        value = extend_digest(value, record)
    return value


def repacked(record: Record, **changes: object) -> bytes:
    """The record's bytes with fields of its header changed."""
    data = record.encode()
    size = int.from_bytes(data[:4], "little")
    body = zlib.decompress(data[4:])
    head = json.dumps(json.loads(body[:size]) | changes).encode()
    return len(head).to_bytes(4, "little") + zlib.compress(head + body[size:])


def test_a_digest_of_another_length_is_refused() -> None:
    record = Record(RecordKind.DOCUMENT, document="d", committed_bytes=3, content=EMPTY + b"abc")
    assert Record.decode(record.encode()) == record
    for content in ("00" * 31, "00" * 34, "00" * 36):
        with pytest.raises(CorruptStateError, match="digest"):
            Record.decode(repacked(record, content=content))
    with pytest.raises(CorruptStateError):
        Record.decode(repacked(record, content="zz" * 35))


@given(RECORDS)
def test_a_record_is_read_as_it_was_written(record: Record) -> None:
    assert Record.decode(record.encode()) == record


@given(st.integers(0, 8 * len(TURN.encode()) - 1))
def test_a_flipped_bit_is_an_error_or_no_change(bit: int) -> None:
    data = bytearray(TURN.encode())
    data[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(CorruptStateError):
        assert Record.decode(bytes(data)) == TURN  # such as in the padding of the last byte


@pytest.mark.parametrize("size", range(0, len(TURN.encode()), 7))
def test_a_truncated_record_is_an_error(size: int) -> None:
    with pytest.raises(CorruptStateError):
        Record.decode(TURN.encode()[:size])


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "song"},
        {"segments": [["nobody", False, [1]]]},
        {"segments": [["user", True, [1]]]},
        {"segments": 3},
        {"tail": "zz"},
        {"format": None},
    ],
)
def test_a_header_that_makes_no_sense_is_an_error(changes: dict[str, object]) -> None:
    with pytest.raises(CorruptStateError):
        Record.decode(repacked(TURN, **changes))


def test_a_newer_format_is_refused() -> None:
    with pytest.raises(StateVersionError, match=f"format {RECORD_FORMAT + 1}"):
        Record.decode(repacked(TURN, format=RECORD_FORMAT + 1))


def test_only_what_forgets_statements_has_the_newer_format() -> None:
    def version(record: Record) -> int:
        data = record.encode()
        body = zlib.decompress(data[4:])
        head = json.loads(body[: int.from_bytes(data[:4], "little")])
        return int(head["format"])

    forgets = Record(RecordKind.FORGET, places=(Place(3, 0, 4), Place(5, 2, 9)))
    assert Record.decode(forgets.encode()) == forgets
    assert (version(TURN), version(forgets)) == (1, 2)
    # What is forgotten is part of what the fold read.
    assert digest(TURN, forgets) != digest(TURN, Record(RecordKind.FORGET))
    assert digest(replace(TURN, time=7)) == digest(TURN)


@given(st.lists(st.booleans(), min_size=5, max_size=5), st.integers(0, 3))
def test_the_digest_does_not_depend_on_where_a_document_was_cut(
    cuts: list[bool], empty: int
) -> None:
    spans = [(index, index + 1) for index in range(6)]
    parts: list[list[tuple[int, ...]]] = [[]]
    for span, cut in zip(spans, [*cuts, False], strict=True):
        parts[-1].append(span)
        if cut:
            parts.append([])
    pieces = [document(*part, committed=at) for at, part in enumerate(parts)]
    pieces[empty:empty] = [document(committed=99)]
    pieces[-1] = replace(pieces[-1], ended=True)
    assert digest(*pieces) == digest(document(*spans, ended=True))


@pytest.mark.parametrize(
    "other",
    [
        replace(TURN, conversation="work"),
        replace(TURN, segments=TURN.segments[:2]),
        replace(TURN, segments=(TURN.segments[1], TURN.segments[0], TURN.segments[2])),
        replace(TURN, segments=(*TURN.segments[:2], Segment(Speaker.ASSISTANT, ((7,), (2,))))),
        replace(TURN, segments=(TURN.segments[0], replace(TURN.segments[1], learnable=False))),
        replace(TURN, fresh=True),
    ],
)
def test_the_digest_tells_what_was_said_apart(other: Record) -> None:
    assert digest(other) != digest(TURN)


def test_what_recognises_a_history_is_not_in_the_digest() -> None:
    resent = replace(TURN, taught=(bytes(8),), resume=b"where")
    assert Record.decode(resent.encode()) == resent
    assert digest(resent) == digest(TURN)


def test_names_cannot_pass_for_each_other_in_the_digest() -> None:
    one = replace(document((1,)), conversation="a:b", document="c")
    other = replace(document((1,)), conversation="a", document="b:c")
    assert digest(one) != digest(other)


def test_an_end_an_event_and_a_rollback_change_the_digest_and_a_report_does_not() -> None:
    events = [
        document(ended=True),
        *(
            Record(kind)
            for kind in RecordKind
            if kind not in (RecordKind.TURN, RecordKind.DOCUMENT)
        ),
    ]
    digests = {event.kind: digest(event) for event in events}
    assert digests.pop(RecordKind.CONSOLIDATION) == ZERO
    assert len({*digests.values(), ZERO}) == len(digests) + 1
    assert digest(document(committed=5)) == ZERO
