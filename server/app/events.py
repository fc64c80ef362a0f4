"""Events of turns: the values that a turn hands out while it runs.

A turn is an async iterator of these. Transports map them to messages of their own, and need nothing
else of the server to answer: token ids come with their bytes, figures with their units.

    generate: (Queued | Learning)*, Began, TextDelta*, Finished
    ingest:   (Queued | Learning)*, IngestProgress, ..., Ingested
    score:    (Queued | Learning)*, Scored

The last event comes when the turn is durable. A turn that fails raises instead, after the events
that came before, and leaves no trace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from hope_runtime.engine.reply import FinishReason
from hope_runtime.learning import Consolidation


@dataclass(frozen=True, slots=True)
class Queued:
    """The turn waits: for other turns, or because its user has learnt too much in a minute."""


@dataclass(frozen=True, slots=True)
class Learning:
    """The turn waits while `level` of its session learns what earlier turns taught.

    `fraction`, from 0 to 1, is the part of that level's work that is done; None when it is unknown.
    """

    level: int
    fraction: float | None = None


Waiting = Queued | Learning
Tell = Callable[[Waiting], None]
"""Takes what a turn waits for, when the wait begins and whenever it comes further."""


@dataclass(frozen=True, slots=True)
class Began:
    """The session is held, and `memory_version` of its memory answers; 0 without a session."""

    memory_version: int


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and the natural logarithm of its probability. `text` need not be whole characters."""

    token: int
    text: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """The token that was chosen, and the likeliest ones in its place, best first."""

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More text of a reply, the number of tokens behind it, and one entry for each of these tokens
    if log-probabilities were asked for."""

    text: str
    tokens: int
    logprobs: tuple[TokenLogprobs, ...] = ()

    def __add__(self, following: TextDelta) -> TextDelta:
        return TextDelta(
            self.text + following.text,
            self.tokens + following.tokens,
            self.logprobs + following.logprobs,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Cost of a turn, and the version of the memory that answered.

    `input_tokens` include the template's. `surprise_nats` is the mean negative log-likelihood of
    the learnable tokens, None when there were none. `cached_input_tokens` were in the
    window before.
    """

    input_tokens: int
    output_tokens: int
    learnable_tokens: int
    memory_version: int
    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float
    surprise_nats: float | None = None
    cached_input_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """The reply is complete and durable. `text` is all of it.

    `replayed` says that it was stored by an earlier request with the same id, `window_began` that
    the conversation had no window before; `dropped_conversation` names the one whose window had to
    go for it. `learning` says that the session was still learning what earlier turns taught, and
    that the reply was made with the memory as it was.
    """

    reason: FinishReason
    text: str
    usage: Usage
    replayed: bool = False
    window_began: bool = False
    dropped_conversation: str = ""
    learning: bool = False


@dataclass(frozen=True, slots=True)
class IngestLearning:
    """Cost and result of learning in this call: the document's budget, passes per token (None where
    the policy knows none), tokens run forward and backward, and statements practised."""

    budget: float | None = None
    trained_tokens: int = 0
    practised_statements: int = 0

    def with_reports(self, reports: Sequence[Consolidation]) -> IngestLearning:
        """With more consolidations."""
        return replace(
            self,
            trained_tokens=self.trained_tokens + sum(each.trained_tokens for each in reports),
            practised_statements=self.practised_statements
            + sum(each.statements for each in reports),
        )


NOTHING_LEARNT = IngestLearning()


@dataclass(frozen=True, slots=True)
class IngestProgress:
    """A part of a document is durable, up to `committed_bytes`: a broken ingest resumes there.

    `tokens` counts those of this call. `surprise_nats` is the mean negative log-likelihood of the
    tokens scored since the last progress, None when none was. `dropped_document` and
    `dropped_conversation` name what the session let go of for this document.
    """

    committed_bytes: int
    tokens: int
    memory_version: int
    surprise_nats: float | None
    dropped_document: str = ""
    dropped_conversation: str = ""
    learning: IngestLearning = NOTHING_LEARNT


@dataclass(frozen=True, slots=True)
class Ingested:
    """The ingest is complete. Fields as in IngestProgress, `surprise_nats` over the whole call;
    `ended` says that the document takes no more, `queued` that the server reads it on its own."""

    committed_bytes: int
    tokens: int
    memory_version: int
    surprise_nats: float | None
    ended: bool
    learning: IngestLearning = NOTHING_LEARNT
    queued: bool = False


@dataclass(frozen=True, slots=True)
class Scored:
    """Summed negative log-likelihood of the `tokens` of a text, in nats, and the version of the
    memory that was asked."""

    tokens: int
    nats: float
    memory_version: int


class ReplyCodec(Protocol):
    """The format in which replies are stored for repeated requests."""

    def encode(self, delta: TextDelta, finished: Finished) -> bytes:
        """A reply as bytes: all of its text as one piece, and its end."""
        ...

    def decode(self, payload: bytes) -> tuple[TextDelta, Finished]:
        """The reply that `encode` wrote, now or in an older program, marked as replayed."""
        ...


GenerateEvent = Waiting | Began | TextDelta | Finished
IngestEvent = Waiting | IngestProgress | Ingested
ScoreEvent = Waiting | Scored
