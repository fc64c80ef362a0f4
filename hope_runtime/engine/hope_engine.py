"""Engine of a HOPE model, whose memories are written while tokens are read.

All that a session needs is in its SessionMemory, so nothing is kept between turns. Tokens that may
teach a level are computed row by row, on one thread, so that levels are the same to the last bit
whatever else is served; tokens of replies, which teach nothing, are one batch.

Knows no users and no stores.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as nnf

from hope_runtime.device import Device
from hope_runtime.engine import hope_reading as reading
from hope_runtime.engine import hope_turn as turns
from hope_runtime.engine.base import EngineLoad
from hope_runtime.engine.learning_thread import GeneratorRequest
from hope_runtime.engine.loop import Loop
from hope_runtime.engine.reply import OnText
from hope_runtime.engine.request import Request, always_ready
from hope_runtime.engine.scheduler import MAX_ROWS
from hope_runtime.engine.turn import GenerateOutcome, GenerateTurn, ReadOutcome
from hope_runtime.errors import DivergedStateError
from hope_runtime.learning import Consolidation
from hope_runtime.models.hope.batch import Batch
from hope_runtime.models.hope.model import forward
from hope_runtime.models.hope.served import HopeModel
from hope_runtime.models.hope.session import HopeLayout, flushed, restore
from hope_runtime.models.hope.state import HopeState, Segment
from hope_runtime.models.hope.stream import end_segments, flush
from hope_runtime.session.fold import Boundary
from hope_runtime.session.levels import FullRank
from hope_runtime.session.log import Record
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.policy import LearningPolicy


class HopeEngine:
    """A SessionEngine, which documents its methods.

    Raises UnsupportedModelError for a model whose levels cannot be served.

    A level learns at its boundaries while tokens are read, so a turn brings it along; only what a
    flush asks for (the end of a document or of a conversation) is consolidated behind the turn.
    """

    def __init__(self, model: HopeModel) -> None:
        self.model = model
        self.policies: Mapping[str, LearningPolicy] = {model.policy.name: model.policy}
        self.layout = HopeLayout(model)
        # A turn writes fast memories, which a flush changes too.
        self.learns_beside_turns = False
        self._norms = [_norm(initial.theta) for initial in model.initial]
        self._batch = Batch(model)
        self._loop = Loop(self._compute, device=Device.of(model, threads=1), room=lambda: MAX_ROWS)
        self._loop.start()

    def __enter__(self) -> HopeEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop after the pieces at work; what is left is cancelled."""
        self._loop.close()

    @property
    def window_tokens(self) -> int:
        """Tokens that attention sees."""
        return self.model.config.window

    def state_bytes_limit(self, policy: LearningPolicy) -> int:
        """Bytes of a session's levels, once each has learnt."""
        return sum(initial.nbytes for initial in self.model.initial)

    def adapt(self, memory: SessionMemory) -> SessionMemory:
        """The memory itself: its windows are of the model's size."""
        return memory

    def check(self, memory: SessionMemory, turn: GenerateTurn) -> None:
        """Raise InvalidRequestError if the turn would be refused. Safe on any thread."""
        turns.prompt(self.model, memory, turn)

    def generate(
        self,
        row: Hashable,
        memory: SessionMemory,
        turn: GenerateTurn,
        on_text: OnText,
        *,
        ready: Callable[[], bool] = always_ready,
    ) -> Request[GenerateOutcome]:
        """Answer a turn. `on_text` is called on the engine's thread and must not block."""
        return self._loop.serve(turns.HopeGenerateRequest(self.model, memory, turn, on_text, ready))

    def read(self, row: Hashable, memory: SessionMemory, record: Record) -> Request[ReadOutcome]:
        """Read a document's record, scoring it."""
        return self._loop.serve(turns.HopeReadRequest(self.model, memory, record))

    def score(self, memory: SessionMemory | None, context: str, text: str) -> Request[ReadOutcome]:
        """Score a text in a conversation of its own; a memory of None is the frozen model."""
        return self._loop.serve(turns.HopeScoreRequest(self.model, memory, context, text))

    def observe(self, memory: SessionMemory, record: Record) -> Request[SessionMemory]:
        """The memory after a record of the log that nobody answers or scores."""
        return self._loop.serve(turns.HopeObserveRequest(self.model, memory, record))

    def consolidate(
        self, memory: SessionMemory, boundary: Boundary
    ) -> Request[tuple[SessionMemory, Consolidation]]:
        """Learn what was gathered; a pure function of memory and boundary."""
        return self._loop.learn(GeneratorRequest(self._consolidate(memory, boundary)))

    def change(self, before: SessionMemory | None, after: SessionMemory) -> list[float]:
        """Frobenius norm of the change of each level, over that of theta_0."""
        found = []
        for index, initial in enumerate(self.model.initial):
            old = initial if before is None else before.levels[index].weights or initial
            new = after.levels[index].weights or initial
            found.append(_norm(_difference(new, old)) / self._norms[index])
        return found

    def drop(self, row: Hashable) -> None:
        """Nothing is kept, so nothing is dropped."""

    def load(self) -> EngineLoad:
        """Requests that the engine carries now; no windows are kept."""
        running, waiting, learning = self._loop.load()
        return EngineLoad(running, waiting, learning, resident_rows=0, resident_bytes=0)

    def _compute(
        self, chunks: Sequence[reading.HopeForwardChunk]
    ) -> list[reading.HopeOutput | Exception]:
        """The output of each chunk; one that cannot be computed fails alone."""
        replies = [at for at, chunk in enumerate(chunks) if reading.is_reply(self.model, chunk)]
        together = self._together([chunks[at] for at in replies])
        outputs = dict(zip(replies, together, strict=False))
        return [outputs.get(at) or self._alone(chunk) for at, chunk in enumerate(chunks)]

    def _together(self, chunks: Sequence[reading.HopeForwardChunk]) -> list[reading.HopeOutput]:
        """The outputs of one batch; none when there is nothing to gain, or when it failed."""
        if len(chunks) < 2:
            return []
        try:
            return reading.run_together(self._batch, chunks)
        except Exception:
            return []  # computed one by one, only the chunk at fault fails

    def _alone(self, chunk: reading.HopeForwardChunk) -> reading.HopeOutput | Exception:
        try:
            return reading.run(self.model, chunk)
        except Exception as error:
            return error

    def _consolidate(
        self, memory: SessionMemory, boundary: Boundary
    ) -> Generator[None, None, tuple[SessionMemory, Consolidation]]:
        started = time.monotonic()
        yield  # from here on, one bounded piece
        model = self.model
        state = restore(model, memory)
        segment = state.segment
        assert segment is not None, "a model without levels has nothing to learn"
        before = _segment_nats(model, state, segment)
        try:
            state = flush(model.config, model.weights, state)
        except DivergedStateError:
            # Decided from the log alone, so a fold decides the same: what was gathered is let go.
            state = end_segments(model.config, model.weights, state)
            emptied = (replace(level, gathered=None) for level in state.levels)
            state = replace(state, levels=tuple(emptied))
        report = Consolidation(
            level=boundary.level,
            position=boundary.position,
            spans=len(memory.pending),
            tokens=memory.pending_tokens,
            surprise_before_nats=before,
            surprise_after_nats=_segment_nats(model, state, segment),
            trained_tokens=int(segment.length_B),
            seconds=time.monotonic() - started,
        )
        return flushed(memory, state, boundary.position), report


@torch.no_grad()
def _segment_nats(model: HopeModel, state: HopeState, segment: Segment) -> float:
    """Mean nats of the tokens of a segment that count, under the levels of `state`; 0 for none."""
    length = int(segment.length_B)
    if length < 2:
        return 0.0
    ids_BT = segment.ids_BN[:, :length]
    counted = segment.learnable_BN[0, 1:length]
    if not bool(counted.any()):
        return 0.0
    write = segment.learnable_BN[:, : length - 1]
    scores, _ = forward(
        model.config,
        model.weights,
        ids_BT[:, :-1],
        segment.start,
        thetas=state.thetas,
        write_BT=write.cpu(),
    )
    nats = nnf.cross_entropy(scores[0], ids_BT[0, 1:], reduction="none")
    return float(nats[counted].mean())


def _difference(new: FullRank, old: FullRank) -> tuple[torch.Tensor, ...]:
    return tuple(a - b for a, b in zip(new.theta, old.theta, strict=True))


def _norm(tensors: Sequence[torch.Tensor]) -> float:
    return float(sum(float(tensor.double().square().sum()) for tensor in tensors) ** 0.5)
