"""What a server needs of an engine, whichever model it runs.

An engine knows no users and no stores: callers bring an immutable memory and get back what the
session knows afterwards. Work is submitted and comes back as tickets, whose futures resolve on a
thread of the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import torch

from hope_runtime.engine.reply import OnText
from hope_runtime.engine.scheduler import Ticket
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
    """What the engine carries now."""

    running: int
    waiting: int
    learning: int
    # Windows that are kept or in use, and what they and the memories kept ready take.
    resident_rows: int
    resident_bytes: int


class ServedModel(Protocol):
    """What a server asks of a model itself."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def former(self) -> frozenset[str]:
        """Fingerprints under which sessions of this very model were stored before."""
        ...

    @property
    def name(self) -> str:
        """What people call it; empty where that is not known."""
        ...

    @property
    def dtype(self) -> torch.dtype: ...


class SessionEngine(Protocol):
    """Runs turns and consolidations of any number of sessions on one model.

    `row` names whatever an engine keeps between the turns of one conversation; one turn at a time
    a row. Memories are never changed; outcomes bring the memory after the turn.
    """

    @property
    def model(self) -> ServedModel: ...

    @property
    def window_tokens(self) -> int:
        """Tokens that attention sees."""
        ...

    @property
    def policies(self) -> Mapping[str, LearningPolicy]:
        """The policies that a session may have, by name; one of them is "default"."""
        ...

    @property
    def layout(self) -> Layout: ...

    @property
    def learns_beside_turns(self) -> bool:
        """Whether turns leave everything alone that consolidations change (fold.with_learning)."""
        ...

    def state_bytes_limit(self, policy: LearningPolicy) -> int:
        """Bytes that a session's levels take once each has learnt."""
        ...

    def adapt(self, memory: SessionMemory) -> SessionMemory:
        """A memory that was stored, as this engine continues it: with windows of its own size."""
        ...

    def check(self, memory: SessionMemory, turn: GenerateTurn) -> None:
        """Raises InvalidRequestError if the turn would be refused. Any thread may call it."""
        ...

    def generate(
        self,
        row: Hashable,
        memory: SessionMemory,
        turn: GenerateTurn,
        on_text: OnText,
        *,
        ready: Callable[[], bool] = ...,
    ) -> Ticket[GenerateOutcome]:
        """Answers. `on_text` is called on the engine's thread and must not block."""
        ...

    def read(self, row: Hashable, memory: SessionMemory, record: Record) -> Ticket[ReadOutcome]:
        """Reads a document's record, scoring it."""
        ...

    def score(self, memory: SessionMemory | None, context: str, text: str) -> Ticket[ReadOutcome]:
        """Scores a text in a conversation of its own; a memory of None is the frozen model."""
        ...

    def observe(self, memory: SessionMemory, record: Record) -> Ticket[SessionMemory]:
        """The memory after a record of the log that nobody answers or scores: an event, or what a
        fold reads again."""
        ...

    def consolidate(
        self, memory: SessionMemory, boundary: Boundary
    ) -> Ticket[tuple[SessionMemory, Consolidation]]:
        """Learns at one boundary; a pure function of memory and boundary."""
        ...

    def change(self, before: SessionMemory | None, after: SessionMemory) -> list[float]:
        """Of each level the relative norm of what changed between two memories of one policy; None
        is the model itself."""
        ...

    def drop(self, row: Hashable) -> None:
        """Forgets what is kept of a row, if it is not in use."""
        ...

    def load(self) -> EngineLoad: ...

    def close(self) -> None:
        """Stops after the present pieces; what was not done is cancelled."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
