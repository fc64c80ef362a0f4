"""History of what was taught, read from the log: which consolidation learnt a token, in which
version, and which statement took the place of which.

A consolidation notes positions, counts of learnable tokens; forgetting shifts them. So the log is
read in stretches between two forgettings, each with the positions of its own time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hope_runtime.errors import CorruptStateError
from hope_runtime.session.effective import Counted, Piece, counted
from hope_runtime.session.guards import Guard
from hope_runtime.session.log import Record, RecordKind

# Decisions after which a consolidation left nothing behind.
_UNDONE = frozenset([Guard.REJECTED, Guard.DIVERGED, Guard.PASSED_OVER])


class Told(NamedTuple):
    """A learnable span that counts: the number of its record, where it stands there, and how many
    learnable tokens of the whole log came before it."""

    seq: int
    piece: Piece
    position: int

    @property
    def end(self) -> int:
        """Count of learnable tokens up to its last one."""
        return self.position + len(self.piece.ids)


class Learnt(NamedTuple):
    """Tokens of a record that the fastest level learnt, and the version of the memory then."""

    start: int
    stop: int
    version: int


@dataclass(slots=True)
class History:
    """History of one log.

    `told` are the spans that count, `superseded` the places of statements by those that took theirs
    (record and token), `undone` the stretches, by level, of consolidations that left nothing, and
    `learnt` the tokens that the fastest level learnt, by record.
    """

    counted: Counted
    told: list[Told]
    superseded: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    undone: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    learnt: dict[int, list[Learnt]] = field(default_factory=dict)

    def version(self, seq: int, start: int) -> int:
        """Version of the memory that first had learnt a token; 0 when no record notes it."""
        found = (each for each in self.learnt.get(seq, ()) if each.start <= start < each.stop)
        return min((each.version for each in found), default=0)


def told(log: Sequence[Record], now: Counted) -> list[Told]:
    """Spans that count, in the order of the log, with their positions."""
    found = []
    position = 0
    for seq in now.records:
        for piece in now.pieces(log, seq):
            found.append(Told(seq, piece, position))
            position += len(piece.ids)
    return found


def history(log: Sequence[Record]) -> History:
    """The history of a log. Raises CorruptStateError for notes that no server wrote."""
    now = counted(log)
    found = History(now, told(log, now))
    try:
        for spans, consolidations, is_last in _stretches(log, now, found.told):
            _read(found, spans, consolidations, is_last=is_last)
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptStateError(
            f"the stored figures of a consolidation cannot be decoded: {error}"
        ) from error
    # A correction that was forgotten corrects nothing.
    found.superseded = {
        old: by
        for old, by in found.superseded.items()
        if any(
            by[0] == seq and by[1] in range(each.start, each.stop) for seq, each, _ in found.told
        )
    }
    return found


def _stretches(
    log: Sequence[Record], now: Counted, last: list[Told]
) -> Iterator[tuple[list[Told], list[Mapping[str, Any]], bool]]:
    """For each stretch between two forgettings the spans that counted then, the notes of its
    consolidations, and whether it is the last one."""
    ends = [seq for seq, each in now.records.items() if each.kind is RecordKind.FORGET]
    start = 0
    for end in (*ends, len(log) + 1):
        notes: list[Mapping[str, Any]] = [
            each.notes
            for seq, each in now.records.items()
            if start < seq < end and each.kind is RecordKind.CONSOLIDATION
        ]
        is_last = end > len(log)
        if notes:
            before = log[: end - 1]
            yield (last if is_last else told(before, counted(before))), notes, is_last
        start = end


def _read(
    found: History, spans: list[Told], consolidations: list[Mapping[str, Any]], *, is_last: bool
) -> None:
    starts = [each.position for each in spans]
    reached: dict[int, int] = {}
    at = 0
    for notes in consolidations:
        level, position = int(notes["level"]), int(notes["position"])
        undone = any(event["guard"] in _UNDONE for event in notes.get("guards", ()))
        if undone and is_last:
            found.undone.setdefault(level, []).append((reached.get(level, 0), position))
        reached[level] = position
        for pair in notes.get("superseded", ()):
            by, old = (_place(spans, starts, int(pair[name])) for name in ("by", "start"))
            if by is not None and old is not None:
                found.superseded[old] = by
        while not level and at < len(spans) and spans[at].end <= position:
            seq, piece, _ = spans[at]
            if not undone:
                learnt = Learnt(piece.start, piece.stop, int(notes.get("version", 0)))
                found.learnt.setdefault(seq, []).append(learnt)
            at += 1


def _counts(spans: list[Told], place: tuple[int, int]) -> bool:
    """Whether the token at a place of the log is in one of the spans."""
    index = bisect_right(spans, place, key=lambda each: (each.seq, each.piece.start)) - 1
    return index >= 0 and spans[index].seq == place[0] and place[1] < spans[index].piece.stop


def _place(spans: list[Told], starts: list[int], position: int) -> tuple[int, int] | None:
    """Record and place in it of the token at a position."""
    index = bisect_right(starts, position) - 1
    if index < 0 or position >= spans[index].end:
        return None
    seq, piece, start = spans[index]
    return seq, piece.start + position - start
