"""Schema of the JSON in a stored state, checked strictly before it is believed.

A store's digests say that bytes are those that were stored, but an import's bytes are whatever a
user sent. So every field has its type and its range here, and what codec.py builds from them needs
no further doubt. A value out of range raises ValueError.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from hope_runtime.session.content import fits
from hope_runtime.session.guards import Guard
from hope_runtime.session.log import MAX_TAUGHT, Count, Digest, Hex, Passes, Resume, Speaker
from hope_runtime.session.memory import MAX_CONVERSATIONS, MAX_DOCUMENTS

Nats = FiniteFloat | None
# Text is cut into spans of at most 1,024 characters (spans.py), which are 4 bytes or tokens each at
# the very most; a longer one would make one step of learning as long.
MAX_SPAN_TOKENS = 4096 + 64


class LevelFields(NamedTuple):
    """Counters of a level, and whether it has learnt."""

    learnt_through: Count
    updates: Count
    learnt_tokens: Count
    surprise_before_nats: Nats
    surprise_after_nats: Nats
    has_learnt: bool


class SpanFields(NamedTuple):
    """A span without its token ids, of which it has `tokens`."""

    tokens: Annotated[int, Field(ge=0, le=MAX_SPAN_TOKENS)]
    speaker: Speaker
    start: Count
    surprise_nats: Nats


class ConversationFields(NamedTuple):
    """A conversation and its window without token ids: `pinned` and `recent` count them."""

    name: str
    turns: Count
    capacity: Count
    dropped: Count
    pinned: Count
    recent: Count


class DocumentFields(NamedTuple):
    """Progress of a document."""

    name: str
    committed_bytes: Count
    tail: Hex
    ended: bool
    # Since format 4; empty for a document that was begun before.
    content: Hex = ""


class FastFields(BaseModel):
    """Conversation whose context is in the fast memory."""

    model_config = ConfigDict(strict=True, extra="forbid")

    conversation: str | None


class EventFields(NamedTuple):
    """A decision of a guard."""

    guard: Guard
    value: FiniteFloat
    limit: FiniteFloat


class WatchedFields(NamedTuple):
    """State of one Page-Hinkley test."""

    # Not `count`: tuples have a method of that name.
    figures: Annotated[int, Field(ge=1, lt=1 << 53)]
    mean: FiniteFloat
    up: FiniteFloat
    least: FiniteFloat
    down: FiniteFloat
    most: FiniteFloat


class GuardFields(NamedTuple):
    """State of a level's guards."""

    rejections: Count
    frozen: bool
    # More than a boundary makes.
    events: Annotated[list[EventFields], Field(max_length=8)]
    # None before the first figure and after an alarm.
    surprise: WatchedFields | None
    probes: WatchedFields | None


class AccountFields(NamedTuple):
    """Account of the document that was read last."""

    passes: Passes
    earned: Annotated[FiniteFloat, Field(ge=0)]
    spent: Count


class GrantFields(NamedTuple):
    """Passes for a part of a document that no boundary has settled yet."""

    start: Count
    end: Count
    passes: Passes
    begins: bool


class StateFields(BaseModel):
    """A memory without its tensors. Format 1 had neither `contexts` nor `fast`; `guards` came with
    format 3 and is empty when no level's guards remember anything; `taught` and `resume`, by
    conversation, came with format 5, `account` and `grants` with format 6."""

    model_config = ConfigDict(strict=True, extra="forbid")

    policy: str
    policy_digest: str
    observed_tokens: Count
    flushes: list[Count]
    log_digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    levels: list[LevelFields]
    pending: list[SpanFields]
    buffer: list[SpanFields]
    cues: list[list[Count]]
    conversations: Annotated[list[ConversationFields], Field(max_length=MAX_CONVERSATIONS)]
    documents: Annotated[list[DocumentFields], Field(max_length=MAX_DOCUMENTS)]
    contexts: list[str] = []
    fast: FastFields | None = None
    guards: list[GuardFields] = []
    taught: Annotated[list[Digest], Field(max_length=MAX_TAUGHT)] = []
    resume: dict[str, Resume] = {}
    account: AccountFields | None = None
    grants: list[GrantFields] = []

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        names = {item.name for item in self.conversations}
        named = names.issuperset(self.contexts) and names.issuperset(self.resume)
        if len(names) != len(self.conversations) or not named:
            raise ValueError(
                "the names of conversations must be unique, and every context must belong to one "
                "of them"
            )
        if len({item.name for item in self.documents}) != len(self.documents):
            raise ValueError("the names of documents must be unique")
        if not all(
            fits(bytes.fromhex(item.content), item.committed_bytes, item.ended)
            for item in self.documents
        ):
            raise ValueError("the digest of a document does not fit its length")
        if self.guards and len(self.guards) != len(self.levels):
            raise ValueError("the number of guard states must equal the number of levels")
        for item in self.conversations:
            # As Window.pin and the hops leave it.
            half = (item.capacity - item.pinned) // 2
            if 2 * item.pinned > item.capacity or item.recent > 2 * half:
                raise ValueError("a window contains more tokens than its capacity")
        return self
