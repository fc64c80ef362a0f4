"""Interface between a server and an engine, whichever model it runs.

An engine knows no users and no stores: callers bring an immutable memory and get back the session
after the turn. Work is submitted and comes back as requests, whose futures resolve on a thread of
the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import torch

from hope_runtime.engine.reply import OnText
from hope_runtime.engine.request import Request
from hope_runtime.engine.turn import GenerateOutcome, GenerateTurn, ReadOutcome
from hope_runtime.learning import Consolidation
from hope_runtime.session.fold import Boundary
from hope_runtime.session.layout import Layout
from hope_runtime.session.log import Record
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.policy import LearningPolicy
from hope_runtime.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """Requests and bytes that an engine carries now.

    `resident_rows` counts windows that are kept or in use; `resident_bytes` is their size and that
    of the adapters kept ready.
    """

    running: int
    waiting: int
    learning: int
    resident_rows: int
    resident_bytes: int


class ServedModel(Protocol):
    """Properties of a model that a server needs."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Tokenizer with the chat template."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hex, over what a memory depends on (models/decoder/weights.py)."""
        ...

    @property
    def former(self) -> frozenset[str]:
        """Fingerprints under which sessions of this very model were stored before."""
        ...

    @property
    def name(self) -> str:
        """Name that people know the model by; empty where that is not known."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Dtype that the model computes in."""
        ...


class SessionEngine(Protocol):
    """Runs turns and consolidations of any number of sessions on one model.

    `row` names whatever an engine keeps between the turns of one conversation; one turn at a time
    runs on a row. Memories are never changed; outcomes bring the memory after the turn.
    """

    @property
    def model(self) -> ServedModel:
        """The model that all sessions share."""
        ...

    @property
    def window_tokens(self) -> int:
        """Tokens that attention sees."""
        ...

    @property
    def policies(self) -> Mapping[str, LearningPolicy]:
        """The policies that a session may have, by name; one of them is "default"."""
        ...

    @property
    def layout(self) -> Layout:
        """Layout of a session's stored tensors."""
        ...

    @property
    def learns_beside_turns(self) -> bool:
        """Whether turns leave everything alone that consolidations change (fold.with_learning)."""
        ...

    def state_bytes_limit(self, policy: LearningPolicy) -> int:
        """Bytes that a session's levels take once each has learnt."""
        ...

    def adapt(self, memory: SessionMemory) -> SessionMemory:
        """A stored memory as this engine continues it: with windows of its own size."""
        ...

    def check(self, memory: SessionMemory, turn: GenerateTurn) -> None:
        """Raise InvalidRequestError if the turn would be refused. Safe on any thread."""
        ...

    def generate(
        self,
        row: Hashable,
        memory: SessionMemory,
        turn: GenerateTurn,
        on_text: OnText,
        *,
        ready: Callable[[], bool] = ...,
    ) -> Request[GenerateOutcome]:
        """Answer a turn. `on_text` is called on the engine's thread and must not block."""
        ...

    def read(self, row: Hashable, memory: SessionMemory, record: Record) -> Request[ReadOutcome]:
        """Read a document's record, scoring it."""
        ...

    def score(self, memory: SessionMemory | None, context: str, text: str) -> Request[ReadOutcome]:
        """Score a text in a conversation of its own; a memory of None is the frozen model."""
        ...

    def observe(self, memory: SessionMemory, record: Record) -> Request[SessionMemory]:
        """The memory after a record of the log that nobody answers or scores: an event, or a record
        that a fold reads again."""
        ...

    def consolidate(
        self, memory: SessionMemory, boundary: Boundary
    ) -> Request[tuple[SessionMemory, Consolidation]]:
        """Learn at one boundary; a pure function of memory and boundary."""
        ...

    def change(self, before: SessionMemory | None, after: SessionMemory) -> list[float]:
        """Relative norm of the change between two memories of one policy, of each level; None is
        the model itself."""
        ...

    def drop(self, row: Hashable) -> None:
        """Forget what is kept of a row, if it is not in use."""
        ...

    def load(self) -> EngineLoad:
        """Requests and bytes that the engine carries now."""
        ...

    def close(self) -> None:
        """Stop after the pieces at work; what is left is cancelled."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
