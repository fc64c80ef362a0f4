"""SessionMemory: the one value that owns everything a session knows.

It is immutable: every step of the fold (fold.py) and every consolidation (learning/) returns a
new one, so forking is free, a cancelled turn leaves no trace by construction, and whoever holds a
memory may read it from any thread. Knows no user, no store and no cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from hope_runtime.layers.config import ModelConfig
from hope_runtime.layers.lora import LoraAdapter, concatenate
from hope_runtime.session import content
from hope_runtime.session.budget import NO_BUDGET, Budget
from hope_runtime.session.levels import Level
from hope_runtime.session.log import Speaker
from hope_runtime.session.policy import LearningPolicy
from hope_runtime.session.window import Window

# Bounds on what a session carries besides its levels (rule 5). The log keeps all.
MAX_CONVERSATIONS = 8
MAX_DOCUMENTS = 64


@dataclass(frozen=True, slots=True)
class Span:
    """A learnable piece of the log, tokenised on its own.

    `start` is the count of learnable tokens before it. `surprise_nats` is the mean negative
    log-likelihood, nats per token, that the Learner found before it first learnt the span; None
    until then. `cues` are questions that it answers, derived by the Learner as well.
    """

    ids: tuple[int, ...]
    speaker: Speaker
    start: int
    surprise_nats: float | None = None
    cues: tuple[tuple[int, ...], ...] = ()

    @property
    def end(self) -> int:
        """Count of learnable tokens up to its last one."""
        return self.start + len(self.ids)


@dataclass(frozen=True, slots=True)
class Conversation:
    """A named window, and how many turns it has seen.

    `context` is what a HOPE model carries along the conversation instead of a window of token
    ids, by name, while another conversation is being read; else empty.
    """

    window: Window
    turns: int = 0
    context: Mapping[str, Tensor] = field(default_factory=dict)
    # By what a server recognises the conversation when its client sends the whole history again,
    # as of its last turn; opaque here, empty when that turn came without a history.
    resume: bytes = b""


@dataclass(frozen=True, slots=True)
class Document:
    """Progress of a document that is being read. `tail` are committed bytes that no span has yet.

    `content` is the running digest of the committed bytes (content.py), of an ended document the
    digest itself; empty when they were not digested from the first one on. It tells documents
    apart and is not part of the memory's hash.
    """

    committed_bytes: int = 0
    tail: bytes = b""
    ended: bool = False
    content: bytes = b""

    @property
    def digest(self) -> bytes:
        """Digest of the committed bytes; empty when it is not known."""
        return self.content if self.ended or not self.content else content.digest(self.content)


@dataclass(frozen=True, slots=True)
class FastMemoryState:
    """Fast memory, written while tokens were read: named tensors whose meaning is the engine's.
    Never changed in place.

    `conversation` is the one that was read last, whose context is among them; None once it ended.
    """

    tensors: Mapping[str, Tensor]
    conversation: str | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


@dataclass(frozen=True, slots=True)
class SessionMemory:
    """Memory of one session. See the fields' comments; lengths are in learnable tokens."""

    fingerprint: str
    policy: LearningPolicy
    # Fastest first, as the policy lists them.
    levels: tuple[Level, ...]
    # Spans that the fastest level has not learnt yet.
    pending: tuple[Span, ...] = ()
    # A bounded sample of learnt spans: rehearsed beside new ones, and what slower levels learn.
    buffer: tuple[Span, ...] = ()
    # Most recently used last.
    conversations: Mapping[str, Conversation] = field(default_factory=dict)
    documents: Mapping[str, Document] = field(default_factory=dict)
    observed_tokens: int = 0
    # Counts at which an event asked for consolidation and none happened yet.
    flushes: tuple[int, ...] = ()
    log_digest: bytes = bytes(32)
    # What documents may still cost. Not part of the hash: a function of the log and the levels.
    budget: Budget = NO_BUDGET
    # Digests of messages that taught, the latest last: a message that is sent again teaches
    # nothing twice. At most MAX_TAUGHT (log.py). Not part of the hash, like the windows.
    taught: tuple[bytes, ...] = ()
    # None until something was written, and in models that have no fast memory. Not part of the
    # hash: how tokens were cut into passes changes its rounding, as it does that of logits.
    fast: FastMemoryState | None = None

    @staticmethod
    def fresh(fingerprint: str, policy: LearningPolicy) -> SessionMemory:
        """The memory of a new session: the base model bit for bit."""
        levels = tuple(Level(config) for config in policy.levels)
        return SessionMemory(fingerprint, policy, levels)

    @property
    def adapter(self) -> LoraAdapter | None:
        """All levels' terms as one; None for the plain base model."""
        return concatenate(level.adapter for level in self.levels)

    @property
    def pending_tokens(self) -> int:
        """Tokens of the spans that the fastest level has not learnt."""
        return sum(len(span.ids) for span in self.pending)

    @property
    def nbytes(self) -> int:
        """Bytes of the levels' tensors."""
        return sum(level.learnt.nbytes for level in self.levels if level.learnt is not None)

    def learnt_since(self, earlier: SessionMemory) -> bool:
        """Whether a level has changed since, or a fast memory was written."""
        levels = zip(earlier.levels, self.levels, strict=True)
        return any(new.learnt is not old.learnt for old, new in levels) or (
            self.fast is not None and self.observed_tokens != earlier.observed_tokens
        )

    def levels_digest(self) -> str:
        """Changes when a level does; names the memory that a cached window was read with."""
        return hashlib.sha256(b"".join(level.digest() for level in self.levels)).hexdigest()

    def hash(self) -> str:
        """SHA-256 over base, policy, levels, counters and log: the fold's fingerprint.

        Two sessions with the same log under one policy and one base model have the same hash,
        however the text was cut, whatever else was served (rule 2).
        """
        parts = (
            self.fingerprint.encode(),
            self.policy.digest().encode(),
            self.levels_digest().encode(),
            str(self.observed_tokens).encode(),
            self.log_digest,
        )
        return hashlib.sha256(b"|".join(parts)).hexdigest()


def state_bytes_limit(config: ModelConfig, policy: LearningPolicy) -> int:
    """Bytes that all levels of one session hold once each has learnt, stored as bfloat16."""
    return 2 * config.parameters_per_rank * sum(level.rank for level in policy.levels)
