"""Teaches a memory through the engine, by the very calls a server makes.

A `Pupil` is a session without a store: it observes records, and wherever the fold says that a
level is due, the engine consolidates. Nothing here is special to an evaluation, so what it
measures is what a server does. Knows no questions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from hope_lab.evaluate.data.filler import spans_of
from hope_lab.evaluate.learnt import learnt_of
from hope_runtime.engine.prompt import Message
from hope_runtime.engine.request import Request
from hope_runtime.engine.sampling import Sampling
from hope_runtime.engine.torch_engine import TorchEngine
from hope_runtime.engine.turn import GenerateTurn
from hope_runtime.learning import Consolidation
from hope_runtime.session.codec import encode_memory
from hope_runtime.session.fold import due, observe
from hope_runtime.session.log import Record, RecordKind, Segment, Speaker
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.policy import LearningPolicy
from hope_runtime.tokenizer import Tokenizer

_Result = TypeVar("_Result")
# What is taught in chat needs no long answers.
REPLY_TOKENS = 6
# Learnable tokens after which a piece of a document is observed, so that it is learnt on the way.
PIECE_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Piece:
    """Whole spans of a document, their token ids, and its bytes up to their end."""

    spans: tuple[tuple[int, ...], ...]
    committed: int
    ended: bool

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(token for span in self.spans for token in span)


def pieces(tokenizer: Tokenizer, text: str | Iterable[str]) -> Iterator[Piece]:
    """A document, whole or as it arrives, in the pieces in which it is observed.

    The last piece, and only that one, may have no spans.
    """
    spans: list[tuple[int, ...]] = []
    committed = tokens = 0
    for span in spans_of((text,) if isinstance(text, str) else text):
        spans.append(tuple(tokenizer.encode(span)))
        committed += len(span.encode())
        tokens += len(spans[-1])
        if tokens >= PIECE_TOKENS:
            yield Piece(tuple(spans), committed, ended=False)
            spans, tokens = [], 0
    yield Piece(tuple(spans), committed, ended=True)


class Pupil:
    """One session's memory and what its learning cost. `consolidated` is called after each.

    `budget` is what a document may cost, passes per token; None: as the policy says.
    """

    def __init__(
        self,
        engine: TorchEngine,
        policy: LearningPolicy,
        *,
        consolidated: Callable[[Consolidation], None] = lambda report: None,
        budget: float | None = None,
    ) -> None:
        self.engine = engine
        self.memory = SessionMemory.fresh(engine.model.fingerprint, policy)
        # The same object until something is learnt.
        self.learnt = learnt_of(self.memory, engine.fast_memory)
        self.consolidations: list[Consolidation] = []
        self._consolidated = consolidated
        self._budget = policy.document_budget if budget is None else budget

    @property
    def learn_seconds(self) -> float:
        """Wall time of all consolidations."""
        return sum(report.seconds for report in self.consolidations)

    @property
    def trained_tokens(self) -> int:
        """Tokens that were run forward and backward, rehearsal included."""
        return sum(report.trained_tokens for report in self.consolidations)

    @property
    def state_bytes(self) -> int:
        """Bytes of all blobs of the memory as a store would keep them."""
        return sum(map(len, encode_memory(self.memory).values()))

    def say(self, conversation: str, text: str) -> str:
        """A user's turn; returns the reply, of a few tokens."""
        turn = GenerateTurn(
            conversation, (Message("user", text),), Sampling(max_tokens=REPLY_TOKENS)
        )
        outcome = _result(self.engine.generate(self, self.memory, turn, on_text=lambda piece: None))
        self._observe(outcome.record)
        return outcome.text

    def ingest(
        self,
        conversation: str,
        document: str,
        text: str | Iterable[str],
        *,
        before: Callable[[Piece], None] = lambda piece: None,
    ) -> None:
        """Reads a whole document, or one that arrives in parts, whose cuts change nothing.

        The window's keys and values are not computed: they are a cache that nobody asks here.
        `before` is called with each piece before the memory sees it.
        """
        for piece in pieces(self.engine.model.tokenizer, text):
            before(piece)
            self._observe(_record(conversation, document, piece, self._budget))

    def end_conversation(self, conversation: str) -> None:
        """Drops the window; what is not learnt yet is learnt now."""
        self._observe(Record(RecordKind.END_CONVERSATION, conversation))

    def _observe(self, record: Record) -> None:
        self.memory = observe(self.memory, record, window_tokens=self.engine.window_tokens)
        while (boundary := due(self.memory)) is not None:
            self.memory, report = _result(self.engine.consolidate(self.memory, boundary))
            self.learnt = learnt_of(self.memory, self.engine.fast_memory)
            self.consolidations.append(report)
            self._consolidated(report)


def _record(conversation: str, document: str, piece: Piece, budget: float | None) -> Record:
    return Record(
        RecordKind.DOCUMENT,
        conversation,
        (Segment(Speaker.DOCUMENT, piece.spans, learnable=True),) if piece.spans else (),
        document=document,
        committed_bytes=piece.committed,
        ended=piece.ended,
        budget=budget,
    )


def _result(request: Request[_Result]) -> _Result:
    return request.future.result()
