"""Turns and learning side by side share the engine fairly, and none changes another."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import pytest
from engines import WAIT, Gate, ask
from memories import WINDOW, document, spans_of
from torch_turns import answer

from hope_runtime.engine.request import Request
from hope_runtime.engine.runner import ForwardChunk, Output, Runner
from hope_runtime.engine.torch_engine import TorchEngine
from hope_runtime.engine.turn import ReadOutcome
from hope_runtime.learning import Consolidation
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.fold import Boundary, observe
from hope_runtime.session.memory import SessionMemory


@dataclass
class TracingLearner:
    """A learner of many small pieces, each of which leaves an L in the trace."""

    trace: list[str]
    pieces: int = 40
    width: int = 1
    begun: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def consolidate(
        self, memory: SessionMemory, boundary: Boundary
    ) -> Generator[None, None, tuple[SessionMemory, Consolidation | None]]:
        for _ in range(self.pieces):
            self.begun.set()
            assert self.go_on.wait(WAIT)
            self.trace.append("L")
            yield
        return memory, None


def test_turns_go_on_while_something_is_learnt_and_learning_while_turns_go_on(
    chat_model: BaseModel, memory: SessionMemory
) -> None:
    trace: list[str] = []
    learner = TracingLearner(trace, pieces=3)
    with TorchEngine(chat_model, window_tokens=256, threads=3, learner=learner) as engine:  # type: ignore[arg-type]
        learning = engine.consolidate(memory, Boundary(0, 1))
        assert learner.begun.wait(WAIT)
        assert engine.load().learning == 1
        # One piece of learning takes as long as it takes; a whole reply fits into it.
        gate = Gate()
        assert answer(engine, memory, ask(tokens=40))[0].output_tokens == 40
        turn = engine.generate("other", memory, ask(tokens=40), gate.on_text, ready=gate.ready)
        assert gate.begun.wait(WAIT)
        learner.go_on.set()
        # A reply that is half written does not hold up learning, which leaves it a core.
        learning.future.result(WAIT)
        assert trace == ["L"] * 3
        assert learner.width == 2
        gate.is_open.set()
        turn.future.result(WAIT)
    assert learner.width == 2


@pytest.mark.parametrize(("tiles", "most"), [(False, 8), (True, 16)])
def test_a_reply_shares_its_steps_with_as_much_of_a_text_as_the_processor_spares(
    chat_model: BaseModel,
    memory: SessionMemory,
    monkeypatch: pytest.MonkeyPatch,
    tiles: bool,
    most: int,
) -> None:
    text = document((tuple(range(10, 90)),))
    steps: list[list[int]] = []
    reads: list[Request[ReadOutcome]] = []
    compute = Runner.step

    def noted(runner: Runner, chunks: Sequence[ForwardChunk]) -> list[Output | Exception]:
        steps.append([len(chunk.ids) for chunk in chunks])
        if not reads and steps[-1] == [1]:  # the reply is being written
            reads.append(engine.read("text", memory, text))
        return compute(runner, chunks)

    monkeypatch.setattr(Runner, "step", noted)
    monkeypatch.setattr(Runner, "tiles", tiles)
    with TorchEngine(chat_model, window_tokens=256) as engine:
        answer(engine, memory, ask(tokens=40))
        reads[0].future.result(WAIT)
    beside = [max(step) for step in steps if len(step) == 2]
    assert sum(beside) == len(text.tokens)
    assert max(beside) == most


def test_learning_through_the_engine_is_learning(
    engine: TorchEngine, memory: SessionMemory
) -> None:
    memory = observe(memory, document(spans_of(*[8] * 4, start=300)), window_tokens=WINDOW)
    turns = [
        engine.generate(row, memory, ask(tokens=10), lambda *_: None) for row in ("a", "b", "c")
    ]
    learnt, report = engine.consolidate(memory, Boundary(0, 32)).future.result(WAIT)
    assert learnt.hash() == engine.learner.consolidate_now(memory, Boundary(0, 32)).hash()
    assert report.tokens == 32
    first, *others = (turn.future.result(WAIT).record for turn in turns)
    assert others == [first, first]


def test_a_session_is_served_alike_alone_and_beside_others(
    engine: TorchEngine, memory: SessionMemory
) -> None:
    alone, _ = answer(engine, memory, ask("Tell me a story.", tokens=16))
    engine.slot_pool.drop("row")
    others = [
        engine.generate(("other", number), memory, ask(f"{number}?", tokens=30), lambda *_: None)
        for number in range(4)
    ]
    beside, _ = answer(engine, memory, ask("Tell me a story.", tokens=16))
    assert beside.record == alone.record
    for other in others:
        other.future.result(WAIT)


def test_sessions_with_memories_of_their_own_answer_together_as_alone(
    chat_model: BaseModel, engine: TorchEngine, memory: SessionMemory
) -> None:
    """16 memories, replies that begin and end while others are being written."""
    learner = engine.learner
    memories = []
    for number in range(16):
        told = document(spans_of(*[8] * 4, start=300 + 40 * number))
        seen = observe(memory, told, window_tokens=WINDOW)
        memories.append(learner.consolidate_now(seen, Boundary(0, 32)) if number % 4 else memory)
    assert len({item.levels_digest() for item in memories}) == 13
    turns = [ask(f"Story {number}.", tokens=4 + 5 * (number % 7)) for number in range(16)]
    alone = []
    for item, turn in zip(memories, turns, strict=True):
        alone.append(answer(engine, item, turn, row="alone")[0].record)
        engine.slot_pool.drop("alone")
    tickets = []
    for number, (item, turn) in enumerate(zip(memories, turns, strict=True)):
        tickets.append(engine.generate(("row", number), item, turn, lambda *_: None))
        if number % 3 == 2:  # the next ones join when some are under way
            tickets[number - 2].future.result(WAIT)
    beside = [ticket.future.result(WAIT).record for ticket in tickets]
    assert beside == alone
