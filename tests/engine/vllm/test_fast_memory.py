"""The trained fast memory beside vLLM: what it adds is what it adds natively, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from engines import ROWS, WAIT, WINDOW, answer, ask, fresh, has_vllm, taught, window_bytes
from fast_memories import noise, small_fast_memory

from hope_runtime.engine.base import SessionEngine
from hope_runtime.engine.torch_engine import TorchEngine
from hope_runtime.engine.turn import GenerateOutcome
from hope_runtime.engine.vllm.engine import VLLMEngine
from hope_runtime.errors import ModelError
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.fast_memory.session import with_written, written
from hope_runtime.models.fast_memory.weights import FastMemory
from hope_runtime.session.fold import due, observe
from hope_runtime.session.log import Record, RecordKind
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.policy import FORWARD_POLICY, LevelConfig

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not has_vllm(), reason="see `make test-vllm`"),
]

# Longer than a step reads at once, so a prompt is read in several.
LONG = "The river Tern runs past the old mill and Rolf the dog. " * 5
FORWARD = replace(FORWARD_POLICY, levels=(LevelConfig(period_tokens=32, rank=1, learning_rate=0),))


@pytest.fixture(scope="module")
def fast_memory(small_model: BaseModel) -> FastMemory:
    return small_fast_memory(small_model)


@pytest.fixture(scope="module")
def native(small_model: BaseModel, fast_memory: FastMemory) -> Iterator[SessionEngine]:
    with TorchEngine(
        small_model, fast_memory=fast_memory, window_tokens=WINDOW, threads=1
    ) as engine:
        yield engine


@pytest.fixture(scope="module")
def engine(small_model: BaseModel, fast_memory: FastMemory) -> Iterator[SessionEngine]:
    room = window_bytes(small_model, 4 * ROWS)
    with VLLMEngine(
        small_model,
        fast_memory=fast_memory,
        window_tokens=WINDOW,
        threads=1,
        window_cache_bytes=room,
        rows=ROWS,
    ) as engine:
        yield engine


def same(one: GenerateOutcome, other: GenerateOutcome) -> None:
    assert one.record == other.record
    pairs = zip(one.reply.logprobs, other.reply.logprobs, strict=True)
    assert max(abs(a.logprob - b.logprob) for a, b in pairs) < 1e-4


def test_rows_of_one_batch_each_read_their_own(
    small_model: BaseModel, fast_memory: FastMemory, native: SessionEngine, engine: SessionEngine
) -> None:
    empty = fresh(small_model)
    memories = [
        empty,
        with_written(fast_memory, empty, noise(fast_memory, 1)),
        with_written(fast_memory, taught(small_model, 2), noise(fast_memory, 2)),
        taught(small_model, 3),
    ]
    texts = ["Who are you?", LONG, "Rolf?", LONG + " Rolf?"]
    turns = [ask(text, 24, logprobs=0) for text in texts]
    alone = [answer(native, *pair) for pair in zip(memories, turns, strict=True)]
    tickets = [
        engine.generate(object(), *pair, lambda _: None)
        for pair in zip(memories, turns, strict=True)
    ]
    for ticket, expected in zip(tickets, alone, strict=True):
        same(ticket.future.result(WAIT), expected)
    frozen = answer(native, empty, turns[1])
    assert frozen.text != alone[1].text, "the memory matters"


def test_a_window_that_is_found_again_reads_as_a_fresh_one(
    small_model: BaseModel, fast_memory: FastMemory, native: SessionEngine, engine: SessionEngine
) -> None:
    """Turns of one conversation, whose keys and values are not computed twice; the memory, which
    they do not depend on, changes in between, and at last the window hops."""
    row = object()
    ours = theirs = fresh(small_model)
    for number in range(4):
        memory = noise(fast_memory, number)
        ours, theirs = (with_written(fast_memory, one, memory) for one in (ours, theirs))
        turn = ask(f"{LONG if number else ''} And now, {number}?", 20, logprobs=0)
        found, expected = answer(engine, ours, turn, row), answer(native, theirs, turn)
        same(found, expected)
        ours = observe(ours, found.record, window_tokens=WINDOW)
        theirs = observe(theirs, expected.record, window_tokens=WINDOW)
    assert len(ours.conversations["default"].window.tokens) < ours.observed_tokens + WINDOW


def test_what_is_written_between_turns_is_what_the_native_engine_writes(
    small_model: BaseModel, fast_memory: FastMemory, native: SessionEngine, engine: SessionEngine
) -> None:
    def life(engine: SessionEngine) -> SessionMemory:
        memory = SessionMemory.fresh(small_model.fingerprint, FORWARD)
        for number in range(3):
            found = answer(engine, memory, ask(f"{LONG} My name is {number}."))
            memory = observe(memory, found.record, window_tokens=WINDOW)
            ended = Record(RecordKind.END_CONVERSATION, "default")
            memory = observe(memory, ended, window_tokens=WINDOW)
            while (boundary := due(memory)) is not None:
                memory, _ = engine.consolidate(memory, boundary).future.result(WAIT)
        return memory

    ours, theirs = life(engine), life(native)
    assert ours.hash() == theirs.hash()
    one, other = written(fast_memory, ours), written(fast_memory, theirs)
    assert one is not None
    assert other is not None
    assert float(one.norm()) > 0
    assert torch.allclose(one, other, atol=5e-5)


def test_a_turn_that_is_given_up_leaves_nothing_behind(
    small_model: BaseModel, fast_memory: FastMemory, native: SessionEngine, engine: SessionEngine
) -> None:
    memory = with_written(fast_memory, fresh(small_model), noise(fast_memory, 9))
    row, turn = object(), ask(LONG, 16, logprobs=0)
    ticket = engine.generate(row, memory, ask(LONG, 60), lambda _: None)
    ticket.cancel()
    same(answer(engine, memory, turn, row), answer(native, memory, turn))


def test_a_branch_before_the_last_layer_is_refused(
    small_model: BaseModel, fast_memory: FastMemory
) -> None:
    early = FastMemory(replace(fast_memory.config, target=1), fast_memory.weights)
    with pytest.raises(ModelError, match="after the last layer"):
        VLLMEngine(small_model, fast_memory=early, window_tokens=WINDOW)
