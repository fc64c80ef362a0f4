"""Helpers of the benchmarks: paired measuring, some memory, some text."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from hope_lab.evaluate.data.filler import filler, load_text
from hope_runtime.layers.lora import STORED_DTYPE, LoraAdapter, initial
from hope_runtime.layers.served_lora import ServedAdapter
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.fold import observe
from hope_runtime.session.log import Record, RecordKind, Segment, Speaker
from hope_runtime.session.memory import SessionMemory
from hope_runtime.session.policy import DEFAULT_POLICY
from hope_runtime.session.spans import split_spans

Entry = dict[str, Any]

WINDOW_TOKENS = 1024
PAIRS = 5


def compared(name: str, unit: str, ours: Callable[[], float], theirs: Callable[[], float]) -> Entry:
    """Both measured in turn, so that a machine whose speed drifts harms both alike."""
    ours(), theirs()  # warm up
    pairs = [(ours(), theirs()) for _ in range(PAIRS)]
    return {
        "name": name,
        "value": statistics.median(a for a, _ in pairs),
        "unit": unit,
        "against": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(a / b for a, b in pairs),
    }


def some_terms(model: BaseModel, seed: int = 0) -> LoraAdapter:
    """Non-zero terms of the default policy's whole rank."""
    adapter = initial(model.config, sum(level.rank for level in DEFAULT_POLICY.levels), seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    return LoraAdapter(
        **{
            name: tensor
            if name.endswith("_a")
            else torch.randn(tensor.shape, generator=generator) * 1e-4
            for name, tensor in adapter.tensors().items()
        }
    ).to(model.dtype)


def served_terms(model: BaseModel, seed: int = 0) -> ServedAdapter:
    """The same, as an engine keeps them."""
    return ServedAdapter.of(some_terms(model, seed), model.dtype)


def some_memory(model: BaseModel, seed: int = 0) -> SessionMemory:
    """A session whose levels have all learnt something."""
    memory = SessionMemory.fresh(model.fingerprint, DEFAULT_POLICY)
    adapter = some_terms(model, seed).to(STORED_DTYPE)
    levels, start = [], 0
    for level in memory.levels:
        end = start + level.config.rank
        own = {
            name: tensor[:, start:end] if name.endswith("_a") else tensor[:, :, start:end]
            for name, tensor in adapter.tensors().items()
        }
        levels.append(replace(level, adapter=LoraAdapter(**own), updates=1))
        start = end
    return replace(memory, levels=tuple(levels))


def text_spans(model: BaseModel, tokens: int) -> list[tuple[int, ...]]:
    """Spans of a real text of so many tokens."""
    text = filler(load_text(None), model.tokenizer, tokens, seed=0)
    return [tuple(model.tokenizer.encode(span)) for span in split_spans(text)]


def observed_all(
    memory: SessionMemory,
    spans: list[tuple[int, ...]],
    *,
    learnable: bool,
    budget: float | None = None,
) -> SessionMemory:
    """The memory after reading a whole document with a budget, passes per token; None: without."""
    for start in range(0, len(spans), 64):
        segment = Segment(Speaker.DOCUMENT, tuple(spans[start : start + 64]), learnable)
        record = Record(
            RecordKind.DOCUMENT,
            "reading",
            (segment,),
            document="text",
            ended=start + 64 >= len(spans),
            budget=budget,
        )
        memory = observed(memory, record)
    return memory


def observed(memory: SessionMemory, record: Record) -> SessionMemory:
    """The memory after one record."""
    return observe(memory, record, window_tokens=WINDOW_TOKENS)
