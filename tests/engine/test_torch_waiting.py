"""Turns that wait for a slot or a slow reader, are cancelled or fail: the others go on."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest
from engines import WAIT, Gate, ask
from torch_turns import answer

from hope_runtime.engine.reply import TextPiece
from hope_runtime.engine.request import Request
from hope_runtime.engine.torch_engine import TorchEngine
from hope_runtime.errors import CancelledTurnError, ModelError, WindowOverflowError
from hope_runtime.layers.kv_cache import KVCache
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.memory import SessionMemory

SMALL = 96  # a window that the system prompt leaves some room in


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
