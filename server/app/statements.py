"""Statements of a session: what it was taught, sentence by sentence, found and forgotten.

A statement is a clause of what somebody said, or a sentence of a document, that the session may
learn from. Its id is its place in the log, record and token, and stays what it is through restarts,
rollbacks, exports and other forgettings. Forgetting is a job (jobs.py); the log keeps the record,
marked, and exports leave its text out (hope_runtime/session/effective.py).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from hope_runtime.errors import InvalidRequestError
from hope_runtime.learning.spans import SpanReader
from hope_runtime.session.log import Place, Record, RecordKind, Speaker
from hope_runtime.session.memory import SessionMemory, Span
from hope_runtime.tokenizer import Tokenizer
from server.app.job_state import Ask
from server.app.session_log import read_log
from server.app.sessions import Sessions
from server.app.taught_history import History, Told, history
from server.store.base import Head, SessionKey

MAX_IDS = 1000
MAX_TEXT_CHARACTERS = 500
_ID = re.compile(r"([1-9][0-9]{0,14})\.(0|[1-9][0-9]{0,14})")
_WORD = re.compile(r"\w+")


class StatementNotFoundError(Exception):
    """The session was taught no such statement, or it was forgotten or taken back."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement that counts.

    `offset_bytes` is where it begins in its document. `levels` are those that practised it, and
    `version` is the first version of the memory that had learnt it, 0 when the log does not say.
    `rehearsed` says that it is in the practice buffer, `surprise_nats` what it cost when it was
    learnt, 0 where that is not kept; `superseded_by` is the id of the statement
    that took its place, "" when none did.
    """

    place: Place
    record: Record
    speaker: Speaker
    text: str
    offset_bytes: int
    levels: tuple[int, ...]
    version: int
    rehearsed: bool
    surprise_nats: float
    superseded_by: str

    @property
    def id(self) -> str:
        """Name of the statement within its session."""
        return f"{self.place.seq}.{self.place.start}"

    @property
    def excerpt(self) -> tuple[str, bool]:
        """The text, up to a bound, and whether there is more."""
        return self.text[:MAX_TEXT_CHARACTERS], len(self.text) > MAX_TEXT_CHARACTERS


async def page(
    sessions: Sessions,
    key: SessionKey,
    *,
    query: str,
    page_size: int,
    page_token: str,
    document: str = "",
    rehearsed_only: bool = False,
) -> tuple[list[Statement], str]:
    """A page of the statements in which every word of `query` occurs, in the order of the log, and
    the token of the next one, "" behind the last; of one document if it is named. Needs no lock:
    what is read never changes.

    Raises NotFoundError, InvalidRequestError, and errors of a state that cannot be used.
    """
    after = _parsed(page_token) if page_token else (0, 0)
    if after is None:
        raise InvalidRequestError(
            "page_token is invalid or belongs to another list method", field="page_token"
        )
    memory, log = await _read(sessions, key)

    def collect() -> tuple[list[Statement], str]:
        found: list[Statement] = []
        reading = _Reading(log, memory, sessions.tokenizer)
        for statement in reading.statements(_matcher(query), after, document):
            if rehearsed_only and not statement.rehearsed:
                continue
            if len(found) == page_size:
                return found, found[-1].id
            found.append(statement)
        return found, ""

    return await asyncio.to_thread(collect)


def check_ids(ids: Sequence[str]) -> frozenset[tuple[int, int]]:
    """Places that ids name. Raises InvalidRequestError for what is no id, and for none or too
    many."""
    if not 1 <= len(ids) <= MAX_IDS:
        raise InvalidRequestError(
            f"{len(ids)} ids were given; name 1 to {MAX_IDS} statements", field="ids"
        )
    found = set()
    for each in ids:
        place = _parsed(each)
        if place is None:
            raise InvalidRequestError(
                f"{each[:80]!r} is not the id of a statement; ListStatements shows them",
                field="ids",
            )
        found.add(place)
    return frozenset(found)


async def check_forget_statements(
    sessions: Sessions, head: Head, ids: frozenset[tuple[int, int]]
) -> Ask:
    """Job that forgets statements. Raises StatementNotFoundError naming those that the session was
    not taught, and errors of a state that cannot be used."""
    memory, log = await _read(sessions, head.key)

    def find() -> list[Place]:
        reading = _Reading(log, memory, sessions.tokenizer)
        records = {seq for seq, _ in ids}
        return [place for place in reading.places(records) if (place.seq, place.start) in ids]

    places = await asyncio.to_thread(find)
    missing = sorted(ids - {(place.seq, place.start) for place in places})
    if missing:
        names = ", ".join(f"{seq}.{start}" for seq, start in missing[:10])
        raise StatementNotFoundError(
            f"session {head.key} has no statement {names}{' ...' if missing[10:] else ''}; it was "
            "never taught, was forgotten, or a rollback took it back"
        )
    return Ask(memory.policy.name, memory.policy.digest(), statements=tuple(places))


async def _read(sessions: Sessions, key: SessionKey) -> tuple[SessionMemory, list[Record]]:
    # In this order, so that the log holds all that the memory knows of.
    blobs = await sessions.store.read_blobs(key)
    memory = await asyncio.to_thread(sessions.decode, blobs)
    return memory, await read_log(sessions, key)


def _parsed(id_: str) -> tuple[int, int] | None:
    found = _ID.fullmatch(id_)
    return (int(found[1]), int(found[2])) if found else None


def _matcher(query: str) -> Callable[[str], bool]:
    """Whether every word of `query` begins a word of a text, in whatever case; a query without
    words must occur as it is."""
    wanted = _WORD.findall(query.casefold())
    if not wanted:
        plain = query.strip()
        return lambda text: plain in text

    def matches(text: str) -> bool:
        words = _WORD.findall(text.casefold())
        return all(any(word.startswith(each) for word in words) for each in wanted)

    return matches


class _Reading:
    """Statements of one log, beside the memory that was folded from it."""

    def __init__(self, log: Sequence[Record], memory: SessionMemory, tokenizer: Tokenizer) -> None:
        self._log = log
        self._memory = memory
        self._tokenizer = tokenizer
        self._spans = SpanReader(tokenizer)
        self._history: History = history(log)
        self._rehearsed = memory.buffer

    def places(self, records: set[int]) -> Iterator[Place]:
        """Places of the statements in some records."""
        for each in self._history.told:
            if each.seq in records:
                yield from (place for place, _, _ in self._clauses(each))

    def statements(
        self, matches: Callable[[str], bool], after: tuple[int, int], document: str = ""
    ) -> Iterator[Statement]:
        """Statements behind a place whose text `matches`, of one document if it is named."""
        offsets = _Offsets(self._log, self._history.counted.records, self._tokenizer)
        for each in self._history.told:
            offset = offsets.of(each)
            if (each.seq, each.piece.stop) <= after:
                continue
            if document and self._log[each.seq - 1].document != document:
                continue
            if not matches(self._tokenizer.decode(each.piece.ids)):
                continue  # then none of its clauses does
            for place, position, text in self._clauses(each):
                if (each.seq, place.start) > after and matches(text):
                    yield self._statement(each, place, position, text, offset)

    def _clauses(self, each: Told) -> Iterator[tuple[Place, int, str]]:
        """Place, position and text of each statement of a span."""
        seq, piece, position = each
        for part in self._spans.clauses(Span(piece.ids, piece.speaker, position)):
            text = self._tokenizer.decode(part.ids).strip()
            start = piece.start + part.start - position
            if text:
                yield Place(seq, start, start + len(part.ids)), part.start, text

    def _statement(
        self, each: Told, place: Place, position: int, text: str, offset_bytes: int
    ) -> Statement:
        end = position + place.stop - place.start
        rehearsed = [span for span in self._rehearsed if span.start < end and position < span.end]
        by = self._history.superseded.get((place.seq, place.start))
        return Statement(
            place=place,
            record=self._log[place.seq - 1],
            speaker=each.piece.speaker,
            text=text,
            offset_bytes=offset_bytes,
            # A level learns whole spans.
            levels=tuple(
                index
                for index, level in enumerate(self._memory.levels)
                if each.end <= level.learnt_through and not self._undone(index, each.end)
            ),
            version=self._history.version(place.seq, place.start),
            rehearsed=bool(rehearsed),
            surprise_nats=max((span.surprise_nats or 0.0 for span in rehearsed), default=0.0),
            superseded_by=f"{by[0]}.{by[1]}" if by else "",
        )

    def _undone(self, level: int, end: int) -> bool:
        return any(start < end <= stop for start, stop in self._history.undone.get(level, ()))


class _Offsets:
    """Bytes of documents at which spans begin, asked for in the order of the log."""

    def __init__(self, log: Sequence[Record], records: Iterable[int], tokenizer: Tokenizer) -> None:
        self._log = log
        self._tokenizer = tokenizer
        # Of each record of a document, where its text begins: where the one before it ended.
        self._starts: dict[int, int] = {}
        ends: dict[str, int] = {}
        for seq in records:
            record = log[seq - 1]
            if record.kind is RecordKind.DOCUMENT:
                self._starts[seq] = ends.get(record.document, 0)
                ends[record.document] = record.committed_bytes - len(record.tail)
        self._seq = self._offset = self._tokens = 0

    def of(self, each: Told) -> int:
        """Byte at which a span's text begins; 0 for what is of no document."""
        if each.seq not in self._starts:
            return 0
        if each.seq != self._seq:
            self._seq, self._offset, self._tokens = each.seq, self._starts[each.seq], 0
        segments = self._log[each.seq - 1].segments
        ids = [id_ for segment in segments if segment.learnable for id_ in segment.tokens]
        skipped = self._tokenizer.decode(ids[self._tokens : each.piece.start])
        self._offset += len(skipped.encode())
        self._tokens = each.piece.start
        return self._offset
