"""What every engine promises of sessions beside each other: isolation, waiting, ends, learning."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from engines import (
    ROWS,
    WAIT,
    WINDOW,
    Gate,
    Make,
    answer,
    ask,
    fresh,
    taught,
)

from hope_runtime.engine.base import SessionEngine
from hope_runtime.engine.reply import TextPiece
from hope_runtime.errors import CancelledTurnError
from hope_runtime.learning import Learner
from hope_runtime.models.decoder.forward import forward, logits
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.fold import Boundary, observe
from hope_runtime.session.log import Record, RecordKind, Segment, Speaker
from hope_runtime.session.memory import SessionMemory


@torch.no_grad()
def likeliest(model: BaseModel, memory: SessionMemory, record: Record, prompt: int) -> None:
    """Asserts that each token of the reply is the likeliest under this memory."""
    adapter = memory.adapter.to(torch.float32) if memory.adapter else None
    ids = torch.tensor([record.tokens])
    logits_TV = logits(model, forward(model, ids, adapter=adapter))[0]
    reply = record.segments[-1].tokens[:-1]  # the end token was added
    for offset, token in enumerate(reply):
        logits_V = logits_TV[prompt - 1 + offset]
        assert float(logits_V[token]) == pytest.approx(float(logits_V.max()), abs=1e-3)


def test_sessions_with_memories_of_their_own_answer_together_as_alone(
    engine: SessionEngine, small_model: BaseModel
) -> None:
    """More sessions than rows, replies that begin and end while others are written."""
    memories = [taught(small_model, seed) if seed % 4 else fresh(small_model) for seed in range(12)]
    turns = [ask(f"Story {number}.", tokens=4 + 5 * (number % 5)) for number in range(12)]
    alone = [answer(engine, memory, turn) for memory, turn in zip(memories, turns, strict=True)]
    for memory, outcome in zip(memories, alone, strict=True):
        likeliest(small_model, memory, outcome.record, outcome.input_tokens)
    tickets = []
    for number, (memory, turn) in enumerate(zip(memories, turns, strict=True)):
        tickets.append(engine.generate(("row", number), memory, turn, lambda _: None))
        if number % 3 == 2:  # the next ones join when some are under way
            tickets[number - 2].future.result(WAIT)
    beside = [ticket.future.result(WAIT).record for ticket in tickets]
    assert beside == [outcome.record for outcome in alone]


@pytest.mark.parametrize("others", range(ROWS))
def test_a_session_without_a_memory_is_the_frozen_model_in_every_mixture(
    engine: SessionEngine, small_model: BaseModel, others: int
) -> None:
    memory = fresh(small_model)
    turn = ask("Tell me a story.", tokens=16, logprobs=0)
    # Every place for a memory is filled, whoever is beside it.
    for seed in range(ROWS):
        answer(engine, taught(small_model, 50 + seed), ask(tokens=1))
    gates = [Gate() for _ in range(others)]
    beside = [
        engine.generate(
            ("other", seed), taught(small_model, 50 + seed), ask(tokens=40), gate.on_text
        )
        for seed, gate in enumerate(gates)
    ]
    assert all(gate.begun.wait(WAIT) for gate in gates)
    outcome = answer(engine, memory, turn)
    for ticket in beside:
        ticket.future.result(WAIT)
    likeliest(small_model, memory, outcome.record, outcome.input_tokens)
    with torch.no_grad():
        logits_TV = logits(small_model, forward(small_model, torch.tensor([outcome.record.tokens])))
    expected_TV = logits_TV[0].log_softmax(-1)
    for offset, each in enumerate(outcome.reply.logprobs):
        expected = float(expected_TV[outcome.input_tokens - 1 + offset, each.token])
        assert each.logprob == pytest.approx(expected, abs=1e-4)


def test_a_memory_that_has_learnt_is_read_at_once(
    engine: SessionEngine, small_model: BaseModel
) -> None:
    """The same words on the same row under one version after another: nothing stale is found."""
    turn = ask("What do I like?", tokens=12)
    versions = [taught(small_model, 70 + number % 3) for number in range(6)]
    kept = [answer(engine, memory, turn, "one row").record for memory in versions]
    own = [answer(engine, memory, turn).record for memory in versions]
    assert kept == own
    assert kept[:3] == kept[3:]
    assert len({record.tokens for record in kept}) == 3


def test_two_rows_share_nothing_that_can_be_seen(
    engine: SessionEngine, small_model: BaseModel
) -> None:
    memory = taught(small_model, 5)
    first = answer(engine, memory, ask("One."), "shared")
    other = answer(engine, memory, ask("Two."), "shared")
    engine.drop("shared")
    again = answer(engine, memory, ask("Two."), "shared")
    assert other.record == again.record != first.record


# Cancelling and waiting


def test_turns_without_a_row_wait_for_one(engine: SessionEngine, small_model: BaseModel) -> None:
    memory = fresh(small_model)
    gates = [Gate() for _ in range(ROWS)]
    holding = [
        engine.generate(("held", n), memory, ask(tokens=9), gate.on_text, ready=gate.ready)
        for n, gate in enumerate(gates)
    ]
    assert all(gate.begun.wait(WAIT) for gate in gates)
    waiting = [
        engine.generate(("more", n), memory, ask(tokens=9), lambda _: None) for n in range(3)
    ]
    assert all(ticket.waiting for ticket in waiting)
    for gate in gates:
        gate.is_open.set()
    replies = {ticket.future.result(WAIT).text for ticket in holding + waiting}
    assert len(replies) == 1


def test_a_cancelled_turn_leaves_no_trace(engine: SessionEngine, small_model: BaseModel) -> None:
    memory = taught(small_model, 6)
    gate = Gate()
    turn = ask(tokens=100)
    ticket = engine.generate("gone", memory, turn, gate.on_text, ready=gate.ready)
    assert gate.begun.wait(WAIT)
    ticket.cancel()
    with pytest.raises(CancelledTurnError):
        ticket.future.result(WAIT)
    # Asked again on the same row: the same reply, and the same surprise.
    again, elsewhere = answer(engine, memory, turn, "gone"), answer(engine, memory, turn)
    assert again.record == elsewhere.record
    assert again.surprise_nats == pytest.approx(elsewhere.surprise_nats, rel=1e-4)


def test_a_turn_that_never_started_can_be_cancelled(
    engine: SessionEngine, small_model: BaseModel
) -> None:
    memory = fresh(small_model)
    ticket = engine.generate("row", memory, ask(), lambda _: None, ready=lambda: False)
    ticket.cancel()
    with pytest.raises(CancelledTurnError):
        ticket.future.result(WAIT)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_slow_reader_stalls_only_itself(
    engine: SessionEngine, small_model: BaseModel, temperature: float
) -> None:
    memory = taught(small_model, 7)
    turn = ask(tokens=40, temperature=temperature, seed=9, logprobs=0)
    gate = Gate()
    slow = engine.generate("slow", memory, turn, gate.on_text, ready=gate.ready)
    assert gate.begun.wait(WAIT)
    quick = answer(engine, memory, turn)
    assert not slow.future.done()
    gate.is_open.set()
    outcome = slow.future.result(WAIT)
    assert outcome.record == quick.record
    assert "".join(piece.text for piece in gate.pieces) == outcome.text
    theirs, ours = quick.reply.logprobs, outcome.reply.logprobs
    assert [each.token for each in ours] == [each.token for each in theirs]
    assert [each.logprob for each in ours] == pytest.approx(
        [each.logprob for each in theirs], abs=1e-4
    )


def test_an_error_in_one_turn_is_its_own(engine: SessionEngine, small_model: BaseModel) -> None:
    def broken(piece: TextPiece) -> None:
        raise RuntimeError("the stream is gone")

    ticket = engine.generate("broken", fresh(small_model), ask(), broken)
    with pytest.raises(RuntimeError, match="stream is gone"):
        ticket.future.result(WAIT)
    assert answer(engine, fresh(small_model), ask()).output_tokens == 8


def test_a_future_cannot_be_taken_from_the_engine(
    engine: SessionEngine, small_model: BaseModel
) -> None:
    ticket = engine.generate("row", fresh(small_model), ask(), lambda _: None)
    assert not ticket.future.cancel()
    assert ticket.future.result(WAIT).output_tokens == 8


def test_closing_cancels_what_was_not_done(make_engine: Make, small_model: BaseModel) -> None:
    engine = make_engine(small_model)
    memory = fresh(small_model)
    gate = Gate()
    tickets = [
        engine.generate("a", memory, ask(tokens=200), gate.on_text, ready=gate.ready),
        engine.generate("b", memory, ask(), lambda _: None, ready=lambda: False),
    ]
    assert gate.begun.wait(WAIT)
    engine.close()
    for ticket in tickets:
        with pytest.raises(CancelledTurnError):
            ticket.future.result(WAIT)
    with pytest.raises(CancelledTurnError, match="closing"):
        engine.generate("a", memory, ask(), lambda _: None)


# Learning


def test_what_is_learnt_is_the_same_whatever_is_served_beside_it(
    engine: SessionEngine, small_model: BaseModel
) -> None:
    spans = tuple(tuple(range(300 + 8 * n, 308 + 8 * n)) for n in range(4))
    segment = Segment(Speaker.DOCUMENT, spans, True)
    record = Record(RecordKind.DOCUMENT, "reading", (segment,), document="x")
    memory = observe(fresh(small_model), record, window_tokens=WINDOW)
    assert engine.observe(fresh(small_model), record).future.result(WAIT).hash() == memory.hash()
    turns = [engine.generate(row, memory, ask(tokens=30), lambda _: None) for row in ("a", "b")]
    learnt, report = engine.consolidate(memory, Boundary(0, 32)).future.result(WAIT)
    plain = Learner(small_model, 1).consolidate_now(memory, Boundary(0, 32))
    assert learnt.hash() == plain.hash()
    assert report.tokens == 32
    first, second = (turn.future.result(WAIT).record for turn in turns)
    assert first == second
    assert engine.change(None, learnt)[0] > 0
    # What was learnt is what answers.
    outcome = answer(engine, learnt, ask(tokens=10))
    likeliest(small_model, learnt, outcome.record, outcome.input_tokens)


def test_a_stored_memory_is_continued_in_windows_of_this_size(
    engine: SessionEngine, small_model: BaseModel
) -> None:
    outcome = answer(engine, fresh(small_model), ask(tokens=4))
    window = outcome.memory.conversations["default"].window
    wider = replace(window, capacity=WINDOW * 2)
    conversation = replace(outcome.memory.conversations["default"], window=wider)
    stored = replace(outcome.memory, conversations={"default": conversation})
    assert engine.adapt(stored).conversations["default"].window.capacity == WINDOW
    assert "default" in engine.policies
    assert engine.window_tokens == WINDOW
