"""The process of vLLM: it refuses to serve when rows leak, and is replaced when it is lost."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from engines import ROWS, WAIT, Gate, answer, ask, has_vllm, make_vllm, taught, window_bytes

from hope_runtime.engine.vllm import supervisor
from hope_runtime.engine.vllm.adapters import Adapters
from hope_runtime.engine.vllm.engine import VLLMEngine
from hope_runtime.errors import EngineLostError, HopeError, ModelError
from hope_runtime.models.decoder.weights import BaseModel

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not has_vllm(), reason="see `make test-vllm`"),
]


def test_an_engine_whose_rows_reach_each_other_does_not_serve(
    small_model: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With vLLM's own code for rows, one without a memory gets the last slot's."""
    paths = f"{Path(__file__).parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    monkeypatch.setenv("PYTHONPATH", paths)
    monkeypatch.setattr(supervisor, "MODULE", "leaky")
    with pytest.raises(ModelError, match="the adapters of other rows"):
        make_vllm(small_model)


def test_an_engine_that_cannot_start_says_why(
    small_model: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "MODULE", "json.tool")
    with pytest.raises(ModelError, match="ended before it was ready"):
        make_vllm(small_model)


def test_a_window_that_the_bytes_do_not_hold_is_refused(small_model: BaseModel) -> None:
    with pytest.raises(
        ModelError, match="window_cache_bytes is 1000, but one window of 256 tokens"
    ):
        VLLMEngine(small_model, window_tokens=256, window_cache_bytes=1000)


def back(engine: VLLMEngine, lost: int) -> float:
    """Seconds until another process serves."""
    started = time.monotonic()
    while engine.pid in (None, lost):
        assert time.monotonic() - started < WAIT
        time.sleep(0.05)
    return time.monotonic() - started


def test_a_process_that_is_lost_takes_nothing_with_it(
    small_model: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "STALL_SECONDS", 2.0)
    memories = [taught(small_model, seed) for seed in range(ROWS)]
    room = window_bytes(small_model, 4 * ROWS)
    with VLLMEngine(
        small_model, window_tokens=256, threads=1, window_cache_bytes=room, rows=ROWS
    ) as engine:
        before = [answer(engine, memory, ask(tokens=8)).record for memory in memories]
        # A request that the process cannot do fails its own turn and no other.
        with monkeypatch.context() as patched:
            patched.setattr(Adapters, "take", lambda *_: 12345)
            with pytest.raises(HopeError, match="adapter 12345 does not exist"):
                answer(engine, memories[0], ask(tokens=8))
        first = engine.pid
        assert first is not None
        assert answer(engine, memories[0], ask(tokens=8)).record == before[0]
        assert engine.pid == first
        for number in (signal.SIGKILL, signal.SIGSTOP):  # it ends, and it stands still
            lost = engine.pid
            assert lost is not None
            gates = [Gate() for _ in memories]
            tickets = [
                engine.generate(object(), memory, ask(tokens=200), gate.on_text)
                for memory, gate in zip(memories, gates, strict=True)
            ]
            assert all(gate.begun.wait(WAIT) for gate in gates)
            os.kill(lost, number)
            for ticket in tickets:
                with pytest.raises(EngineLostError):
                    ticket.future.result(WAIT)
            with pytest.raises(EngineLostError):  # at once, and not after the next start
                answer(engine, memories[0], ask(tokens=8))
            load = engine.load()
            assert (load.running, load.waiting) == (0, 0)
            print(f"back after {back(engine, lost):.1f} s")
            after = [answer(engine, memory, ask(tokens=8)).record for memory in memories]
            assert after == before
