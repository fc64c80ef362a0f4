"""Difference between two versions of a session: the text that only one of them learnt.

Each version is a fold of the records that counted when it was made. A record that counts for one of
them only was added in between, or taken back: by a rollback, or because somebody had it forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hope_runtime.session.effective import Counted, counted, pieces
from hope_runtime.session.log import Place, Record, Segment
from hope_runtime.session.memory import SessionMemory
from hope_runtime.tokenizer import Tokenizer

EXCERPT_CHARACTERS = 200
# No character has more than four bytes, and no token stands for less than one.
_EXCERPT_TOKENS = 4 * EXCERPT_CHARACTERS + 4


@dataclass(frozen=True, slots=True)
class Version:
    """A version's memory, and the length of the log that it was folded from."""

    memory: SessionMemory
    log_seq: int


@dataclass(frozen=True, slots=True)
class Taught:
    """One speaker's learnable text in one record of the log.

    `log_record` is the record's place, `start` how many learnable tokens came before the text.
    """

    log_record: int
    record: Record
    segment: Segment
    start: int
    version: Version
    taken_back: bool

    @property
    def tokens(self) -> int:
        return len(self.segment.tokens)

    @property
    def surprise_nats(self) -> float | None:
        """Mean surprise, nats per token, of the spans that the memory still rehearses; None when
        there are none."""
        known = {span.start: span.surprise_nats for span in self.version.memory.buffer}
        nats, tokens, at = 0.0, 0, self.start
        for ids in self.segment.spans:
            if (surprise := known.get(at)) is not None:
                nats, tokens = nats + surprise * len(ids), tokens + len(ids)
            at += len(ids)
        return nats / tokens if tokens else None

    def excerpt(self, tokenizer: Tokenizer) -> tuple[str, bool]:
        """The beginning of the text, and whether it is all of it."""
        ids = self.segment.tokens
        text = tokenizer.decode(ids[:_EXCERPT_TOKENS])
        whole = len(ids) <= _EXCERPT_TOKENS and len(text) <= EXCERPT_CHARACTERS
        return text[:EXCERPT_CHARACTERS], whole


def between(log: Sequence[Record], before: Version, after: Version) -> list[Taught]:
    """Text that only one of the versions learnt, in the order of the log."""
    old, new = (counted(log[: version.log_seq]) for version in (before, after))
    gone = _taught(log, before, old, new, taken_back=True)
    come = _taught(log, after, new, old, taken_back=False)
    return sorted([*gone, *come], key=lambda each: (each.log_record, each.start))


def _taught(
    log: Sequence[Record], version: Version, own: Counted, other: Counted, *, taken_back: bool
) -> Iterator[Taught]:
    """Text that `version` learnt and the other one did not."""
    start = 0
    for seq, record in own.records.items():
        if seq not in other.records:
            at = start
            for segment in record.segments:
                if segment.learnable:
                    yield Taught(seq, record, segment, at, version, taken_back)
                    at += len(segment.tokens)
        elif own.forgotten.get(seq) != other.forgotten.get(seq):
            known = [Place(seq, each.start, each.stop) for each in other.pieces(log, seq)]
            mine = own.pieces(log, seq)
            for piece in pieces(log[seq - 1], [*own.forgotten.get(seq, ()), *known]):
                before = sum(max(0, min(each.stop, piece.start) - each.start) for each in mine)
                segment = Segment(piece.speaker, (piece.ids,), learnable=True)
                yield Taught(seq, record, segment, start + before, version, taken_back)
        start += record.learnable_tokens
