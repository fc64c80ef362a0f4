"""Predictions of a stream are those of the engine, over hops of the window and new memories."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from fast_memories import noise, small_fast_memory
from torch.nn.functional import cross_entropy

from hope_lab.evaluate.learnt import NOTHING, Learnt, learnt_of
from hope_lab.evaluate.streaming import Stream
from hope_runtime.engine.torch_engine import TorchEngine
from hope_runtime.layers.lora import LoraAdapter, initial
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.fast_memory.session import with_written
from hope_runtime.session.fold import observe
from hope_runtime.session.log import Record, RecordKind, Segment, Speaker
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.policy import SUMMED_GRADIENT_POLICY

WINDOW = 64


def pieces() -> list[tuple[int, ...]]:
    rng = random.Random(0)
    return [tuple(rng.randrange(2, 258) for _ in range(rng.randint(1, 25))) for _ in range(20)]


@pytest.mark.parametrize("levels", [False, True])
@pytest.mark.parametrize("fast", [False, True])
def test_losses_are_those_of_the_engine(tiny_model: BaseModel, levels: bool, fast: bool) -> None:
    memory = SessionMemory.fresh(tiny_model.fingerprint, SUMMED_GRADIENT_POLICY)
    fast_memory = small_fast_memory(tiny_model)
    if fast:
        memory = with_written(fast_memory, memory, noise(fast_memory, 1))
    if levels:
        first = replace(memory.levels[0], adapter=noisy(tiny_model, 1))
        memory = replace(memory, levels=(first, *memory.levels[1:]))
    learnt = learnt_of(memory, fast_memory)
    assert (learnt.beside is not None) is fast
    stream = Stream(tiny_model, WINDOW)
    with TorchEngine(
        tiny_model,
        window_tokens=WINDOW,
        threads=1,
        window_cache_bytes=1 << 24,
        fast_memory=fast_memory,
    ) as engine:
        for ids in pieces():
            segment = Segment(Speaker.DOCUMENT, (ids,), learnable=True)
            record = Record(RecordKind.DOCUMENT, "c", (segment,), document="d")
            expected = engine.read("row", memory, record).future.result()
            memory = observe(memory, record, window_tokens=WINDOW)
            logits_NV, targets_N = stream.predict(ids, learnt)
            assert targets_N.tolist() == list(ids[-expected.scored :])
            nats = float(cross_entropy(logits_NV, targets_N, reduction="sum"))
            assert nats == pytest.approx(expected.nats, rel=1e-5)
    assert memory.conversations["c"].window.dropped > 0


def noisy(model: BaseModel, seed: int) -> LoraAdapter:
    adapter = initial(model.config, 2, seed=seed)
    adapter.down_b.normal_(std=0.5, generator=torch.Generator().manual_seed(seed))
    return adapter


def test_another_memory_reads_the_window_anew(tiny_model: BaseModel) -> None:
    changing, other = Stream(tiny_model, WINDOW), Learnt(noisy(tiny_model, 1))
    steady = Stream(tiny_model, WINDOW)
    for index, ids in enumerate(pieces()):
        logits_NV, _ = changing.predict(ids, NOTHING if index < 10 else other)
        expected_NV, _ = steady.predict(ids, other)
        if index >= 10:
            # As if it had been this memory from the beginning: the window is no memory.
            torch.testing.assert_close(logits_NV, expected_NV)
        elif index:
            assert not torch.allclose(logits_NV, expected_NV)
