"""Records of a log that count, and what is left of them.

A rollback takes back what came after the place it names. A document that is forgotten is left out
whole, a statement token by token; the rest of its record still counts. Nothing here is expensive,
and nothing depends on anything but the records.

A statement is named by its place: the record's sequence number and the range of its tokens among
the record's learnable ones, as it was stored. So its name stays the same for ever.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from hope_runtime.session.log import Place, Record, RecordKind, Segment, Speaker

_SPOKEN = (RecordKind.TURN, RecordKind.DOCUMENT)
# Written by the server or by operators, and no place in which a statement is repeated.
_FRAME = (Speaker.TEMPLATE, Speaker.SYSTEM)
_BLANK = 0


class Piece(NamedTuple):
    """A learnable span of a record, or what is left of it. `start` is the count of learnable tokens
    before it in the record as it was stored."""

    start: int
    speaker: Speaker
    ids: tuple[int, ...]

    @property
    def stop(self) -> int:
        """Count of the record's learnable tokens up to its last one."""
        return self.start + len(self.ids)


@dataclass(frozen=True, slots=True)
class Counted:
    """Records that count, by sequence number in the order of the log, without what was forgotten;
    and the places of what was forgotten in them."""

    records: Mapping[int, Record]
    forgotten: Mapping[int, tuple[Place, ...]]

    def pieces(self, log: Sequence[Record], seq: int) -> list[Piece]:
        """Learnable spans of one of the records, with where they were stored."""
        return list(pieces(log[seq - 1], self.forgotten.get(seq, ())))


def counted(records: Sequence[Record]) -> Counted:
    """The records that count, with their sequence numbers.

    `records[i]` has sequence number i + 1. A version was made when its log had `target_seq`
    records, so what counted then is what remains: a rollback that came before it too.
    """
    kept: dict[int, Record] = {}
    forgotten: dict[int, tuple[Place, ...]] = {}
    for seq in _standing(records):
        record = records[seq - 1]
        if record.kind is RecordKind.FORGET and record.places:
            for place in record.places:
                forgotten[place.seq] = (*forgotten.get(place.seq, ()), place)
            kept = _without_statements(records, kept, record.places, forgotten)
        elif record.kind is RecordKind.FORGET:
            kept = {
                each: item
                for each, item in kept.items()
                if item.kind is not RecordKind.DOCUMENT or item.document != record.document
            }
        kept[seq] = record
    return Counted(kept, forgotten)


def effective(records: Sequence[Record]) -> list[Record]:
    """The records that count, in order; see `counted`."""
    return list(counted(records).records.values())


def redacted(records: Sequence[Record]) -> list[Record]:
    """The whole log without the text of forgotten statements, for whoever takes it elsewhere.

    Every record keeps its number and every statement its place, so `counted` finds the same in it.
    """
    found = list(records)
    last = max(
        (seq for seq in _standing(records) if records[seq - 1].places),
        default=0,
    )
    now = counted(records[:last])
    for seq, record in enumerate(records[:last], start=1):
        if record.kind not in _SPOKEN:
            continue
        left = now.records.get(seq)
        if left is None:
            # Taken back, or nothing of it counts: it may repeat what is forgotten.
            taught = [segment for segment in record.segments if segment.learnable]
            whole = [Place(seq, 0, record.learnable_tokens)]
            left = Record(
                record.kind,
                record.conversation,
                _blanked(taught, whole),
                document=record.document,
                time=record.time,
            )
        elif left.segments is not record.segments:
            kept = [segment for segment in record.segments if _is_kept(segment)]
            left = replace(left, segments=_blanked(kept, now.forgotten.get(seq, ())))
        found[seq - 1] = left
    return found


def pieces(record: Record, forgotten: Collection[Place] = ()) -> Iterator[Piece]:
    """Learnable spans of a record as it was stored, without the forgotten ranges."""
    for _, each in _pieces(record.segments, forgotten):
        yield each


def _standing(records: Sequence[Record]) -> list[int]:
    """Sequence numbers of the records that no rollback took back."""
    # For each sequence number, the last record that counts and the number it came after.
    last = [0]
    before = [0]
    for seq, record in enumerate(records, start=1):
        before.append(last[-1])
        last.append(last[record.target_seq] if record.kind is RecordKind.ROLLBACK else seq)
    kept = []
    at = last[-1]
    while at:
        kept.append(at)
        at = before[at]
    return kept[::-1]


def _without_statements(
    records: Sequence[Record],
    kept: Mapping[int, Record],
    places: Collection[Place],
    forgotten: Mapping[int, tuple[Place, ...]],
) -> dict[int, Record]:
    """The records that count without the forgotten places, and from the first of them on without
    all that only windows were given: replies and texts sent again may repeat what is forgotten."""
    first = min(place.seq for place in places)
    cut = {place.seq for place in places}
    documents = {records[seq - 1].document for seq in cut if seq in kept} - {""}
    # Undecided bytes of a document are part of a later record's text.
    latest = {item.document: seq for seq, item in kept.items() if item.document}
    found: dict[int, Record] = {}
    for seq, item in kept.items():
        if item.document in documents and item.kind is RecordKind.DOCUMENT:
            item = replace(
                item,
                tail=item.tail if latest[item.document] == seq else b"",
                # The digest of an open document ends with bytes of its text.
                content=item.content if item.ended else b"",
            )
        if seq >= first and item.kind in _SPOKEN:
            left = _segments(records[seq - 1], forgotten.get(seq, ()))
            if item.kind is RecordKind.TURN and not any(each.learnable for each in left):
                if not item.taught:
                    continue
                # A client that sends its history again must not teach it again.
                left = ()
            item = replace(item, segments=left, resume=b"")
            if not left:
                item = replace(item, pinned=0, fresh=False)
        found[seq] = item
    return found


def _segments(record: Record, forgotten: Collection[Place]) -> tuple[Segment, ...]:
    """Segments of a record without the forgotten ranges and without what only windows were
    given."""
    kept = [segment for segment in record.segments if _is_kept(segment)]
    spans: dict[int, list[tuple[int, ...]]] = {}
    for index, piece in _pieces(kept, forgotten):
        spans.setdefault(index, []).append(piece.ids)
    return tuple(
        replace(segment, spans=tuple(spans.get(index, ()))) if segment.learnable else segment
        for index, segment in enumerate(kept)
        if not segment.learnable or index in spans
    )


def _is_kept(segment: Segment) -> bool:
    return segment.learnable or segment.speaker in _FRAME


def _pieces(
    segments: Sequence[Segment], forgotten: Collection[Place]
) -> Iterator[tuple[int, Piece]]:
    """Pieces, each with the index of its segment."""
    at = 0
    for index, segment in enumerate(segments):
        if not segment.learnable:
            continue
        for ids in segment.spans:
            for start, stop in _remaining(at, at + len(ids), forgotten):
                yield index, Piece(start, segment.speaker, ids[start - at : stop - at])
            at += len(ids)


def _remaining(start: int, stop: int, forgotten: Collection[Place]) -> Iterator[tuple[int, int]]:
    if not forgotten:
        yield start, stop
        return
    for place in sorted(forgotten):
        if place.stop <= start or stop <= place.start:
            continue
        if start < place.start:
            yield start, place.start
        start = max(start, place.stop)
    if start < stop:
        yield start, stop


def _blanked(segments: Sequence[Segment], forgotten: Collection[Place]) -> tuple[Segment, ...]:
    """The segments with the same number of tokens, but none of the forgotten ones."""
    gone = {at for place in forgotten for at in range(place.start, place.stop)}
    found = []
    at = 0
    for segment in segments:
        spans = []
        for ids in segment.spans if segment.learnable else ():
            spans.append(tuple(_BLANK if at + i in gone else id_ for i, id_ in enumerate(ids)))
            at += len(ids)
        found.append(replace(segment, spans=tuple(spans)) if segment.learnable else segment)
    return tuple(found)
