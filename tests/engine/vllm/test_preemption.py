"""More turns than there is room for: rows are taken out and computed again, and nobody sees it.

The engine never begins more turns than keys and values have room for, so the room is made small
behind its back.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from engines import ROWS, WAIT, WINDOW, answer, ask, fresh, has_vllm, taught
from fast_memories import noise, small_fast_memory

from hope_runtime.engine.base import SessionEngine
from hope_runtime.engine.reply import TextPiece
from hope_runtime.engine.torch_engine import TorchEngine
from hope_runtime.engine.vllm.engine import VLLMEngine
from hope_runtime.layers.kv_cache import KVCache
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.fast_memory.session import with_written
from hope_runtime.models.fast_memory.weights import FastMemory
from hope_runtime.session.memory import SessionMemory

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not has_vllm(), reason="see `make test-vllm`"),
]

# What is there for all rows together, in tokens: little more than one window.
ROOM = WINDOW + 96


@pytest.fixture(scope="module")
def fast_memory(small_model: BaseModel) -> FastMemory:
    return small_fast_memory(small_model)


@pytest.fixture(scope="module")
def native(small_model: BaseModel, fast_memory: FastMemory) -> Iterator[SessionEngine]:
    with TorchEngine(
        small_model, fast_memory=fast_memory, window_tokens=WINDOW, threads=1
    ) as engine:
        yield engine


@pytest.fixture
def cramped(
    small_model: BaseModel, fast_memory: FastMemory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SessionEngine]:
    room = KVCache.bytes_of(small_model.config, ROOM, small_model.dtype)
    with monkeypatch.context() as patched:
        patched.setattr(KVCache, "bytes_of", lambda *_: room // ROWS)
        engine = VLLMEngine(
            small_model,
            fast_memory=fast_memory,
            window_tokens=WINDOW,
            threads=1,
            window_cache_bytes=room,
            rows=ROWS,
        )
    with engine:
        yield engine


def test_rows_that_are_taken_out_and_computed_again_answer_the_same(
    small_model: BaseModel, fast_memory: FastMemory, native: SessionEngine, cramped: SessionEngine
) -> None:
    memories: list[SessionMemory] = [
        fresh(small_model),
        with_written(fast_memory, fresh(small_model), noise(fast_memory, 1)),
        with_written(fast_memory, taught(small_model, 2), noise(fast_memory, 2)),
        taught(small_model, 3),
    ]
    turns = [ask(f"Who are you, {name}?", 180, logprobs=0) for name in "abcd"]
    order: list[tuple[int, bool]] = []

    def seen(row: int, piece: TextPiece) -> None:
        order.append((row, False))

    tickets = [
        cramped.generate(object(), memory, turn, lambda piece, row=row: seen(row, piece))
        for row, (memory, turn) in enumerate(zip(memories, turns, strict=True))
    ]
    for row, ticket in enumerate(tickets):
        ticket.future.add_done_callback(lambda _, row=row: order.append((row, True)))
    found = [ticket.future.result(WAIT) for ticket in tickets]
    tokens = [len(each.record.tokens) for each in found]
    # All had begun before one ended, and together they are longer than the room there is.
    ended = order.index(next(event for event in order if event[1]))
    assert {row for row, _ in order[:ended]} == set(range(ROWS))
    assert sum(tokens) > ROOM + 64, tokens
    for memory, turn, outcome in zip(memories, turns, found, strict=True):
        expected = answer(native, memory, turn)
        assert outcome.record == expected.record
        pairs = zip(outcome.reply.logprobs, expected.reply.logprobs, strict=True)
        assert max(abs(a.logprob - b.logprob) for a, b in pairs) < 1e-4
