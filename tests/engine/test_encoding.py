"""Encoding as a phase of a request: one part a step, in its slot, with other requests between."""

from __future__ import annotations

import pytest
from memories import POLICY

from hope_runtime.engine import prompt
from hope_runtime.engine.generate_request import GenerateRequest
from hope_runtime.engine.kv_slots import SlotPool
from hope_runtime.engine.prompt import Message
from hope_runtime.engine.request import Status
from hope_runtime.engine.runner import Runner
from hope_runtime.engine.sampling import Sampling
from hope_runtime.engine.scheduler import Scheduler
from hope_runtime.engine.turn import GenerateTurn
from hope_runtime.engine.window_reader import Reader
from hope_runtime.errors import CancelledTurnError
from hope_runtime.layers.kv_cache import KVPool
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.memory import SessionMemory

WINDOW = 256


class Engine:
    """The parts of a TorchEngine, stepped by hand."""

    def __init__(self, model: BaseModel, slots: int) -> None:
        pool = KVPool(model.config, slots, capacity=WINDOW, dtype=model.dtype, device=model.device)
        self.pool = SlotPool(pool.caches)
        self.memory = SessionMemory.fresh(model.fingerprint, POLICY)
        self.scheduler = Scheduler(Runner(model).step, room=lambda: self.pool.room)
        self._reader = Reader(model, WINDOW, memory_bytes=1 << 20)

    def submit(self, row: str, text: str) -> GenerateRequest:
        turn = GenerateTurn("c", (Message("user", text),), Sampling(max_tokens=4))
        request = GenerateRequest(
            self._reader, self.pool, row, self.memory, turn, lambda piece: None
        )
        self.scheduler.submit(request)
        return request


@pytest.fixture(autouse=True)
def _every_span_is_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt, "STEP_TOKENS", 1)


def test_a_short_turn_ends_while_a_long_prompt_is_encoded(chat_model: BaseModel) -> None:
    engine = Engine(chat_model, slots=2)
    long = engine.submit("long", "Hello. " * 30)
    short = engine.submit("short", "Hello.")
    while not short.finished:
        engine.scheduler.step()
    assert long.status is Status.ENCODING
    assert short.future.result(0).output_tokens == 4
    while not long.finished:
        engine.scheduler.step()
    assert long.future.result(0).input_tokens == len(long.prompt.tokens) > 60
    assert engine.pool.held == 0


def test_a_prompt_that_is_being_encoded_holds_its_slot_until_it_is_cancelled(
    chat_model: BaseModel,
) -> None:
    engine = Engine(chat_model, slots=1)
    long = engine.submit("long", "Hello. " * 30)
    other = engine.submit("other", "Hello.")
    for _ in range(3):
        engine.scheduler.step()
        assert long.encoding
        assert other.waiting
        assert engine.pool.room == 0
        assert engine.scheduler.load() == (1, 1)
    long.cancel()
    engine.scheduler.step()
    with pytest.raises(CancelledTurnError):
        long.future.result(0)
    assert engine.pool.room == 1
    while not other.finished:
        engine.scheduler.step()
    assert other.future.result(0).output_tokens == 4
