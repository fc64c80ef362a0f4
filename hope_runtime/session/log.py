"""The session's log: what was said and read, as token ids, in the order in which it happened.

A session's memory is a pure fold of these records (docs/architecture.md), so a record holds all
that learning may depend on and nothing else. How records are stored, and for whom, is the store's
business.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from hope_runtime.errors import CorruptStateError, StateVersionError
from hope_runtime.session.content import fits

RECORD_FORMAT = 3
# Formats of records without a budget, and of those that forget no statements, so that older servers
# read them.
_FORMAT_BEFORE_BUDGETS = 2
_FORMAT_BEFORE_PLACES = 1
# Of one record before compression: more than the ids of the largest message make.
MAX_RECORD_BYTES = 32 << 20
Count = Annotated[int, Field(ge=0, lt=1 << 53)]
# Passes for a token of a document, and the most of them.
MAX_BUDGET = 1000.0
Passes = Annotated[FiniteFloat, Field(ge=0, le=MAX_BUDGET)]
Hex = Annotated[str, Field(pattern=r"^([0-9a-f]{2})*$")]
# Digests of what was taught that a session keeps, 8 bytes each.
MAX_TAUGHT = 1024
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Resume = Annotated[Hex, Field(max_length=128)]


class Speaker(StrEnum):
    """Source of tokens."""

    TEMPLATE = "template"
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    DOCUMENT = "document"


class RecordKind(StrEnum):
    """Kind of a record."""

    TURN = "turn"
    DOCUMENT = "document"
    END_CONVERSATION = "end_conversation"
    CONSOLIDATE = "consolidate"
    # What a boundary did, for people to read; derived, so the fold skips it.
    CONSOLIDATION = "consolidation"
    ROLLBACK = "rollback"
    RESET = "reset"
    # Says that one document, or some statements, do not count any more, whatever they taught.
    FORGET = "forget"
    # Somebody stops the learning of levels, or lets it go on.
    FREEZE = "freeze"
    UNFREEZE = "unfreeze"


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens of one speaker, already cut into spans.

    `learnable` says that the memory may learn from them; each span was tokenised on its own.
    """

    speaker: Speaker
    spans: tuple[tuple[int, ...], ...]
    learnable: bool = False

    @property
    def tokens(self) -> tuple[int, ...]:
        """All token ids in order."""
        return tuple(token for span in self.spans for token in span)


class Place(NamedTuple):
    """Place of a statement: the sequence number of its record, and the range of its tokens among
    the learnable tokens of that record as it was stored."""

    seq: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of the log.

    `pinned` counts the leading tokens of a turn that stay in its window (the system prompt).
    `committed_bytes` and `tail` say how far a document was read and which of these bytes no
    span has yet; `ended` that the document is complete. `target_version` and `target_seq` say
    where memory goes on from after a rollback; `levels` which ones a reset, or a freeze, is about.
    """

    kind: RecordKind
    conversation: str = ""
    segments: tuple[Segment, ...] = ()
    pinned: int = 0
    document: str = ""
    committed_bytes: int = 0
    tail: bytes = b""
    # As in Document: what tells this document from another one, which the fold keeps and ignores.
    content: bytes = b""
    ended: bool = False
    # Passes that levels may spend for each token of the document (budget.py); None: no limit.
    budget: float | None = None
    target_version: int = 0
    target_seq: int = 0
    levels: tuple[int, ...] = ()
    # Statements that do not count any more.
    places: tuple[Place, ...] = ()
    # The conversation's window begins anew with this turn.
    fresh: bool = False
    # Of a turn whose client sends the whole history again: see SessionMemory.taught and
    # Conversation.resume.
    taught: tuple[bytes, ...] = ()
    resume: bytes = b""
    # Seconds since the epoch when it was said or read, for people to read; 0 when it is not known.
    time: int = 0
    # Figures for people to read; the fold does not look at them.
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def tokens(self) -> tuple[int, ...]:
        """Token ids of all segments in order."""
        return tuple(token for segment in self.segments for token in segment.tokens)

    @property
    def learnable_tokens(self) -> int:
        """Count of the tokens that the memory may learn from."""
        return sum(len(segment.tokens) for segment in self.segments if segment.learnable)

    @property
    def _format(self) -> int:
        if self.budget is not None:
            return RECORD_FORMAT
        return _FORMAT_BEFORE_BUDGETS if self.places else _FORMAT_BEFORE_PLACES

    def encode(self) -> bytes:
        """JSON header and zlib-compressed 32-bit token ids; see `decode`."""
        header = {
            "format": self._format,
            "kind": self.kind,
            "segments": [
                [segment.speaker, segment.learnable, [len(span) for span in segment.spans]]
                for segment in self.segments
            ],
            "tail": self.tail.hex(),
        }
        header |= {name: getattr(self, name) for name in _PLAIN if getattr(self, name)}
        if self.content:
            header["content"] = self.content.hex()
        if self.budget is not None:
            header["budget"] = self.budget
        if self.levels:
            header["levels"] = self.levels
        if self.places:
            header["places"] = self.places
        if self.taught:
            header["taught"] = [digest.hex() for digest in self.taught]
        if self.resume:
            header["resume"] = self.resume.hex()
        ids = np.asarray(self.tokens, dtype="<u4").tobytes()
        head = json.dumps(header, separators=(",", ":")).encode()
        return len(head).to_bytes(4, "little") + zlib.compress(head + ids, 6)

    @staticmethod
    def decode(data: bytes) -> Record:
        """The record that `encode` wrote. Raises CorruptStateError or StateVersionError."""
        try:
            size = int.from_bytes(data[:4], "little")
            body = _decompressed(data[4:])
            header = _Header.model_validate_json(body[:size])
            ids = np.frombuffer(body[size:], dtype="<u4").tolist()
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "it"
            raise CorruptStateError(
                f"a log record cannot be decoded: {where}: {first['msg']}"
            ) from None
        except (zlib.error, ValueError) as error:
            raise CorruptStateError(f"a log record cannot be decoded: {error}") from error
        if header.format > RECORD_FORMAT:
            raise StateVersionError(
                f"the log has format {header.format}, and this server supports formats up to "
                f"{RECORD_FORMAT}; use a newer server"
            )
        if sum(length for _, _, lengths in header.segments for length in lengths) != len(ids):
            raise CorruptStateError(
                "a log record cannot be decoded: its token counts do not add up"
            )
        content = bytes.fromhex(header.content)
        if not fits(content, header.committed_bytes, header.ended):
            raise CorruptStateError(
                "a log record cannot be decoded: the digest of its document has the wrong length"
            )
        rest = iter(ids)
        segments = (
            Segment(speaker, tuple(tuple(islice(rest, length)) for length in lengths), learnable)
            for speaker, learnable, lengths in header.segments
        )
        return Record(
            kind=header.kind,
            segments=tuple(segments),
            tail=bytes.fromhex(header.tail),
            content=content,
            budget=header.budget,
            levels=tuple(header.levels),
            places=tuple(Place(*place) for place in header.places),
            taught=tuple(map(bytes.fromhex, header.taught)),
            resume=bytes.fromhex(header.resume),
            **{name: getattr(header, name) for name in _PLAIN},
        )


def _decompressed(data: bytes) -> bytes:
    # A few bytes can say that they hold gigabytes.
    stream = zlib.decompressobj()
    body = stream.decompress(data, MAX_RECORD_BYTES)
    if not stream.eof or stream.unused_data:
        raise ValueError(f"it is truncated, or larger than {MAX_RECORD_BYTES >> 20} MiB")
    return body


class _Header(BaseModel):
    """The JSON of a record; defaults are those of Record."""

    # A newer format may have more, and is refused for its number.
    model_config = ConfigDict(strict=True, extra="ignore")

    format: int
    kind: RecordKind
    segments: list[tuple[Speaker, bool, list[Count]]]
    tail: Hex
    content: Hex = ""
    budget: Passes | None = None
    levels: list[Count] = []
    places: list[tuple[Count, Count, Count]] = []
    conversation: str = ""
    pinned: Count = 0
    document: str = ""
    committed_bytes: Count = 0
    ended: bool = False
    target_version: Count = 0
    target_seq: Count = 0
    fresh: bool = False
    time: Count = 0
    taught: Annotated[list[Digest], Field(max_length=MAX_TAUGHT)] = []
    resume: Resume = ""
    notes: dict[str, Any] = {}


_PLAIN = (
    "conversation",
    "pinned",
    "document",
    "committed_bytes",
    "ended",
    "target_version",
    "target_seq",
    "fresh",
    "time",
    "notes",
)
