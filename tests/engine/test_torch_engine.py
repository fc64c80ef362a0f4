"""The engine: turns and learning share it fairly, and what it caches changes no reply."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from memories import POLICY, WINDOW, document, spans_of

from hope_runtime.engine.prompt import Message
from hope_runtime.engine.reply import FinishReason, TextPiece
from hope_runtime.engine.request import Request
from hope_runtime.engine.runner import Runner
from hope_runtime.engine.sampling import Sampling
from hope_runtime.engine.torch_engine import TorchEngine
from hope_runtime.engine.turn import GenerateOutcome, GenerateTurn
from hope_runtime.engine.window_reader import Reader
from hope_runtime.errors import (
    CancelledTurnError,
    InvalidRequestError,
    ModelError,
    WindowOverflowError,
)
from hope_runtime.layers.kv_cache import KVCache
from hope_runtime.learning import Consolidation
from hope_runtime.models.decoder.forward import forward, logits
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.fold import Boundary, observe
from hope_runtime.session.log import Speaker
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.window import Window

WAIT = 60.0
SMALL = 96  # a window that the system prompt leaves some room in


@pytest.fixture(scope="module")
def engine(chat_model: BaseModel) -> Iterator[TorchEngine]:
    with TorchEngine(chat_model, window_tokens=256, threads=1) as running:
        yield running


@pytest.fixture
def memory(chat_model: BaseModel) -> SessionMemory:
    return SessionMemory.fresh(chat_model.fingerprint, POLICY)


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(engine: TorchEngine) -> Iterator[None]:
    yield
    engine.slot_pool.check_integrity()
    assert engine.slot_pool.held == 0
    load = engine.load()
    assert (load.running, load.waiting, load.learning) == (0, 0, 0)


def ask(text: str = "Who are you?", tokens: int = 8, **options: Any) -> GenerateTurn:
    sampling = Sampling(max_tokens=tokens, **options)
    return GenerateTurn("default", (Message("user", text),), sampling)


def answer(
    engine: TorchEngine, memory: SessionMemory, turn: GenerateTurn, row: object = "row"
) -> tuple[GenerateOutcome, list[TextPiece]]:
    parts: list[TextPiece] = []
    ticket = engine.generate(row, memory, turn, parts.append)
    return ticket.future.result(WAIT), parts


@dataclass
class Gate:
    """A reader that is behind until it is opened; says when the first text has come."""

    is_open: threading.Event = field(default_factory=threading.Event)
    begun: threading.Event = field(default_factory=threading.Event)

    def on_text(self, piece: TextPiece) -> None:
        self.begun.set()

    def ready(self) -> bool:
        return not self.begun.is_set() or self.is_open.is_set()


# Replies


def test_a_reply_is_a_record_and_its_text(engine: TorchEngine, memory: SessionMemory) -> None:
    outcome, parts = answer(engine, memory, ask(tokens=8))
    assert outcome.finish_reason is FinishReason.LENGTH
    assert outcome.output_tokens == 8
    assert "".join(part.text for part in parts) == outcome.text
    assert sum(part.tokens for part in parts) == outcome.reply.tokens == 8
    assert not outcome.reply.logprobs  # nobody asked
    reply = outcome.record.segments[-1]
    assert reply.speaker is Speaker.ASSISTANT
    assert not reply.learnable
    # A reply that was cut is closed as the template would have closed it.
    assert len(reply.tokens) == 9
    assert reply.tokens[-1] in engine.model.tokenizer.eos_ids
    assert outcome.input_tokens == len(outcome.record.tokens) - 9


def test_a_reply_ends_with_the_models_end_token_or_a_stop_string(base_model: BaseModel) -> None:
    memory = SessionMemory.fresh(base_model.fingerprint, POLICY)
    with TorchEngine(base_model, window_tokens=256, threads=1) as engine:
        outcome, _ = answer(engine, memory, ask("Say only: yes.", tokens=40))
        assert outcome.finish_reason is FinishReason.STOP
        assert outcome.record.tokens[-1] in base_model.tokenizer.eos_ids
        stop = outcome.text[3:6]
        cut, parts = answer(engine, memory, ask("Say only: yes.", tokens=40, stop=(stop,)))
        assert cut.finish_reason is FinishReason.STOP_STRING
        assert cut.text == outcome.text[: outcome.text.index(stop)]
        assert "".join(part.text for part in parts) == cut.text


def chat(
    engine: TorchEngine, memory: SessionMemory, turns: int, *, forget: bool = False
) -> list[GenerateOutcome]:
    outcomes = []
    for number in range(turns):
        outcome, _ = answer(engine, memory, ask(f"Question {number}, and more?", tokens=20))
        if forget:
            engine.slot_pool.drop("row")
        memory = observe(memory, outcome.record, window_tokens=engine.window_tokens)
        outcomes.append(outcome)
    return outcomes


def test_a_conversation_is_the_same_whether_rows_are_kept_or_dropped(
    chat_model: BaseModel, engine: TorchEngine, memory: SessionMemory
) -> None:
    kept, dropped = chat(engine, memory, 8), chat(engine, memory, 8, forget=True)
    for one, other in zip(kept, dropped, strict=True):
        assert one.record == other.record
        assert one.surprise_nats == other.surprise_nats


@torch.no_grad()
def test_a_reply_goes_on_when_the_window_hops_under_it(
    chat_model: BaseModel, memory: SessionMemory
) -> None:
    with TorchEngine(chat_model, window_tokens=SMALL, threads=1) as engine:
        outcome, _ = answer(engine, memory, ask(tokens=150))
    assert outcome.output_tokens == 150
    prompt = outcome.record.tokens[: outcome.input_tokens]
    reply = outcome.record.tokens[outcome.input_tokens :][:150]
    pinned = outcome.record.pinned
    window = Window(SMALL).pin(prompt[:pinned]).append(prompt[pinned:])
    for token in reply:
        scores = logits(chat_model, forward(chat_model, torch.tensor([window.tokens])))[0, -1]
        assert scores[token] == pytest.approx(float(scores.max()), abs=1e-3)
        window = window.append((token,))
    assert window.dropped > 0
    after = observe(memory, outcome.record, window_tokens=SMALL).conversations["default"].window
    assert after.tokens[: len(window.pinned)] == window.pinned
    assert after.position == window.position + 1  # the end token


@torch.no_grad()
def test_logprobs_are_the_models_own_whatever_the_sampling(
    engine: TorchEngine, memory: SessionMemory, chat_model: BaseModel
) -> None:
    turn = ask(tokens=8, temperature=1.5, repetition_penalty=2.0, seed=4, logprobs=3)
    outcome, parts = answer(engine, memory, turn)
    reply = outcome.record.segments[-1].tokens[:8]
    # The whole stream once more, in one plain pass.
    stream = torch.tensor([outcome.record.tokens])
    expected_TV = logits(chat_model, forward(chat_model, stream))[0].log_softmax(-1)
    at = stream.shape[1] - len(outcome.record.segments[-1].tokens) - 1
    found = [each for part in parts for each in part.logprobs]
    assert found == list(outcome.reply.logprobs)
    assert tuple(each.token for each in found) == reply
    for offset, each in enumerate(found):
        expected_V = expected_TV[at + offset]
        assert each.logprob == pytest.approx(float(expected_V[each.token]), abs=1e-3)
        best = expected_V.topk(3)
        assert [token for token, _ in each.top] == best.indices.tolist()
        assert [value for _, value in each.top] == pytest.approx(best.values.tolist(), abs=1e-3)


def test_a_turn_that_cannot_be_read_whole_is_refused(
    engine: TorchEngine, memory: SessionMemory
) -> None:
    long = ask("word " * 400)
    with pytest.raises(WindowOverflowError, match="room for"):
        engine.check(memory, long)
    with pytest.raises(WindowOverflowError, match="room for") as caught:
        answer(engine, memory, long)
    assert caught.value.field == "messages"


def test_the_default_length_fits_the_window(chat_model: BaseModel, memory: SessionMemory) -> None:
    with TorchEngine(chat_model, window_tokens=SMALL, threads=1) as engine:
        turn = GenerateTurn("default", (Message("user", "Hi"),))
        outcome, _ = answer(engine, memory, turn)
    assert outcome.input_tokens + outcome.output_tokens <= SMALL


def test_a_window_longer_than_the_model_knows_is_refused(chat_model: BaseModel) -> None:
    with pytest.raises(ModelError, match="8192 positions"):
        TorchEngine(chat_model, window_tokens=8193)


# Scores


@torch.no_grad()
def test_a_score_is_that_of_a_plain_forward(
    engine: TorchEngine, memory: SessionMemory, chat_model: BaseModel
) -> None:
    context, text = "The river was wide.", " The boat was small, and old."
    encode = chat_model.tokenizer.encode
    before, wanted = encode(context), encode(text)
    scores = logits(chat_model, forward(chat_model, torch.tensor([before + wanted])))[0]
    expected = torch.nn.functional.cross_entropy(
        scores[len(before) - 1 : -1], torch.tensor(wanted), reduction="sum"
    )
    for asked in (memory, None):
        outcome = engine.score(asked, context, text).future.result(WAIT)
        assert outcome.scored == len(wanted)
        assert outcome.nats == pytest.approx(float(expected), rel=1e-5)
    alone = engine.score(None, "", text).future.result(WAIT)
    assert alone.scored == len(wanted)  # the first is predicted from the start of a text


@pytest.mark.parametrize("text", ["", "word " * 300])
def test_a_text_that_cannot_be_scored_is_refused(engine: TorchEngine, text: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        engine.score(None, "", text).future.result(WAIT)
    assert caught.value.field == "text"


# Cancelling and waiting


def test_turns_without_a_slot_wait_for_one(chat_model: BaseModel, memory: SessionMemory) -> None:
    slot = KVCache.bytes_of(chat_model.config, SMALL, chat_model.dtype)
    with TorchEngine(
        chat_model, window_tokens=SMALL, threads=1, window_cache_bytes=2 * slot + 1
    ) as engine:
        assert engine.slot_pool.slots == 2
        gates = [Gate(), Gate()]
        holding = [
            engine.generate(("held", n), memory, ask(tokens=9), gate.on_text, ready=gate.ready)
            for n, gate in enumerate(gates)
        ]
        assert all(gate.begun.wait(WAIT) for gate in gates)
        waiting = [
            engine.generate(("more", n), memory, ask(tokens=9), lambda *_: None) for n in range(4)
        ]
        load = engine.load()
        assert (load.running, load.waiting, load.resident_rows) == (2, 4, 2)
        for gate in gates:
            gate.is_open.set()
        replies = {ticket.future.result(WAIT).text for ticket in holding + waiting}
        assert len(replies) == 1
        engine.slot_pool.check_integrity()
        assert len(engine.slot_pool) == 2


def test_a_cache_that_holds_no_window_is_refused(chat_model: BaseModel) -> None:
    with pytest.raises(
        ModelError, match="window_cache_bytes is 1000, but one window of 256 tokens"
    ):
        TorchEngine(chat_model, window_tokens=256, window_cache_bytes=1000)


def test_a_cancelled_turn_leaves_no_row(engine: TorchEngine, memory: SessionMemory) -> None:
    gate = Gate()
    ticket = engine.generate("gone", memory, ask(tokens=200), gate.on_text, ready=gate.ready)
    assert gate.begun.wait(WAIT)
    assert engine.slot_pool.held == 1
    ticket.cancel()
    with pytest.raises(CancelledTurnError):
        ticket.future.result(WAIT)
    assert engine.slot_pool.held == len(engine.slot_pool) == 0


def test_a_turn_that_never_started_can_be_cancelled(
    engine: TorchEngine, memory: SessionMemory
) -> None:
    ticket = engine.generate("row", memory, ask(), lambda *_: None, ready=lambda: False)
    ticket.cancel()
    with pytest.raises(CancelledTurnError):
        ticket.future.result(WAIT)


def test_a_slow_reader_stalls_only_itself(engine: TorchEngine, memory: SessionMemory) -> None:
    gate = Gate()
    slow = engine.generate("slow", memory, ask(tokens=20), gate.on_text, ready=gate.ready)
    assert gate.begun.wait(WAIT)
    quick, _ = answer(engine, memory, ask(tokens=20))
    assert not slow.future.done()
    assert engine.load().running == 1
    gate.is_open.set()
    assert slow.future.result(WAIT).record == quick.record


def test_an_error_in_one_turn_is_its_own(engine: TorchEngine, memory: SessionMemory) -> None:
    def broken(piece: TextPiece) -> None:
        raise RuntimeError("the stream is gone")

    ticket = engine.generate("broken", memory, ask(), broken)
    with pytest.raises(RuntimeError, match="stream is gone"):
        ticket.future.result(WAIT)
    assert answer(engine, memory, ask())[0].output_tokens == 8


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


def test_closing_cancels_what_was_not_done(chat_model: BaseModel, memory: SessionMemory) -> None:
    engine = TorchEngine(chat_model, window_tokens=256, threads=1)
    gate = Gate()
    tickets: list[Request[Any]] = [
        engine.generate("a", memory, ask(tokens=200), gate.on_text, ready=gate.ready),
        engine.generate("b", memory, ask(), lambda *_: None, ready=lambda: False),
    ]
    assert gate.begun.wait(WAIT)
    engine.close()
    for ticket in tickets:
        with pytest.raises(CancelledTurnError):
            ticket.future.result(WAIT)
    assert engine.slot_pool.held == 0
    with pytest.raises(CancelledTurnError, match="closing"):
        engine.generate("a", memory, ask(), lambda *_: None)


def test_a_future_cannot_be_taken_from_the_engine(
    engine: TorchEngine, memory: SessionMemory
) -> None:
    ticket = engine.generate("row", memory, ask(), lambda *_: None)
    future: Future[Any] = ticket.future
    assert not future.cancel()
    assert future.result(WAIT).output_tokens == 8


def test_a_row_of_the_wrong_conversation_is_only_a_cache(
    engine: TorchEngine, memory: SessionMemory
) -> None:
    first, _ = answer(engine, memory, ask("One."), row="shared")
    other, _ = answer(engine, memory, ask("Two."), row="shared")
    engine.slot_pool.drop("shared")
    again, _ = answer(engine, memory, ask("Two."), row="shared")
    assert other.record == again.record != first.record


def test_reading_scores_what_is_new(chat_model: BaseModel, memory: SessionMemory) -> None:
    reader = Reader(chat_model, 256)
    with TorchEngine(chat_model, window_tokens=256, threads=1) as engine:
        record = replace(document([tuple(range(300, 350))]), document="x")
        outcome = engine.read("row", memory, record).future.result(WAIT)
    row = reader.new_slot()
    reader.bind(row, memory)
    reading = Runner(chat_model).finish(reader.read(row, record.tokens, score=range(50)))
    assert (outcome.nats, outcome.scored) == (reading.nats, reading.scored)
    assert outcome.scored == 49


# Many at once


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


def test_a_pass_that_cannot_be_computed_fails_its_own_turn_only(
    engine: TorchEngine, memory: SessionMemory
) -> None:
    gate = Gate()
    tickets = [
        engine.generate(("row", number), memory, ask(tokens=60), gate.on_text, ready=gate.ready)
        for number in range(3)
    ]
    assert gate.begun.wait(WAIT)
    # The row of a turn under way loses its room, as by a bug elsewhere.
    [first, *_] = [ticket for ticket in tickets if ticket.slot is not None]
    assert first.slot is not None
    kv = first.slot.kv
    kv.length = kv.capacity
    gate.is_open.set()
    with pytest.raises(WindowOverflowError):
        first.future.result(WAIT)
    for ticket in tickets:
        if ticket is not first:
            assert ticket.future.result(WAIT).output_tokens == 60
