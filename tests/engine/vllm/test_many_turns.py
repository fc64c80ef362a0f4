"""Many sessions that learn between their turns: nothing stale is read, and nothing piles up."""

from __future__ import annotations

from pathlib import Path

import pytest
from engines import WAIT, answer, ask, fresh, has_vllm, make_torch, make_vllm

from hope_runtime.engine.vllm.engine import VLLMEngine
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.fold import due
from hope_runtime.session.log import Record, RecordKind
from hope_runtime.session.memory import SessionMemory

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not has_vllm(), reason="see `make test-vllm`"),
]

AT_ONCE = 8
# What allocators and caches of the interpreter may still take once all code has run, MB.
GROWTH_MB = 40


def resident_mb(pid: int | str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("the process is gone")


@pytest.mark.parametrize(
    ("sessions", "turns"), [(10, 80), pytest.param(100, 1000, marks=pytest.mark.heavy)]
)
def test_sessions_that_learn_between_turns_answer_as_natively(
    small_model: BaseModel, sessions: int, turns: int
) -> None:
    memories = [fresh(small_model) for _ in range(sessions)]
    with make_vllm(small_model) as engine, make_torch(small_model) as native:
        assert isinstance(engine, VLLMEngine)

        def learnt(memory: SessionMemory) -> SessionMemory:
            record = Record(RecordKind.CONSOLIDATE)
            memory = engine.observe(memory, record).future.result(WAIT)
            while (boundary := due(memory)) is not None:
                memory, _ = engine.consolidate(memory, boundary).future.result(WAIT)
            return memory

        # The largest steps first: what the allocator keeps of them it keeps for good.
        for length in range(20, 240, 5):
            tickets = [engine.score(None, "", "word " * (length - n)) for n in range(AT_ONCE)]
            for ticket in tickets:
                ticket.future.result(WAIT)
        checked, sizes = 0, []
        for start in range(0, turns, AT_ONCE):
            group = range(start, min(start + AT_ONCE, turns))
            numbers = {turn: turn % sessions for turn in group}
            asked = {turn: ask(f"Turn {turn}: is it {turn * 7 % 31}?", tokens=10) for turn in group}
            replies = {
                turn: engine.generate(
                    numbers[turn], memories[numbers[turn]], asked[turn], lambda _: None
                )
                for turn in group
            }
            for turn, reply in replies.items():
                outcome = reply.future.result(WAIT)
                if turn % 10 == 9:
                    expected = answer(native, memories[numbers[turn]], asked[turn])
                    assert outcome.record == expected.record, f"turn {turn}"
                    checked += 1
                memories[numbers[turn]] = learnt(outcome.memory)
            assert engine.pid is not None
            sizes.append((resident_mb("self"), resident_mb(engine.pid)))
        assert checked == turns // 10
        assert all(any(level.updates for level in memory.levels) for memory in memories)
        begun = sizes[len(sizes) // 2]
        growth = [after - before for before, after in zip(begun, sizes[-1], strict=True)]
        print(f"server +{growth[0]:.1f} MB, vLLM +{growth[1]:.1f} MB in the second half")
        # Memories and windows are the sessions' own, and are held here.
        own = sum(memory.nbytes for memory in memories) / 2**20
        assert growth[0] < GROWTH_MB + own
        assert growth[1] < GROWTH_MB
