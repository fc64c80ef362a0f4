"""Families that vLLM serves say what our own engine says: 2-layer random models, with adapters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engines import answer, ask, fresh, has_vllm, make_torch, make_vllm, taught
from family_variants import Variant, saved

from hope_runtime.checkpoints import load_base_model
from hope_runtime.engine.base import SessionEngine
from hope_runtime.engine.turn import GenerateOutcome
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.session.memory import SessionMemory

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not has_vllm(), reason="see `make test-vllm`"),
]
TOKENS = 32
TEXTS = ("Once upon a time", "The boat was small, and the river was wide and cold and slow.")
# Widths of heads that vLLM's attention has kernels for.
HEADS = {"head_dim": 32}


@pytest.mark.parametrize(
    "variant",
    [
        Variant("Llama", HEADS | {"attention_bias": True}),
        Variant("Mistral", HEADS | {"sliding_window": 16}),
        Variant("Mistral", HEADS | {"sliding_window": None}),
        Variant("Phi3", {"hidden_size": 128, "sliding_window": 16}),
        Variant("Qwen2", {"hidden_size": 128, "tie_word_embeddings": True}),
        Variant("Qwen3", HEADS),
        Variant("Qwen3", HEADS | {"tie_word_embeddings": True}),
        Variant(
            "Granite",
            HEADS
            | {
                "embedding_multiplier": 12.0,
                "attention_multiplier": 0.2,
                "residual_multiplier": 0.6,
                "logits_scaling": 2.0,
            },
        ),
    ],
    ids=str,
)
def test_replies_are_those_of_our_own_engine(
    variant: Variant, tiny_tokenizer_json: str, tmp_path: Path
) -> None:
    """Token for token, of the frozen model and of two memories; the longer prompt is longer than
    what a sliding layer sees."""
    source = saved(variant.make(), tmp_path / "model", tiny_tokenizer_json)
    model = load_base_model(source, dtype="float32", cache_dir=tmp_path)
    memories = [fresh(model), taught(model, 1), taught(model, 2)]
    with make_torch(model) as ours:
        expected = _replies(ours, model, memories)
    with make_vllm(model) as theirs:
        found = _replies(theirs, model, memories)
    assert found == expected
    assert len(set(expected)) > len(TEXTS), "memories change what is said"


def _replies(
    engine: SessionEngine, model: BaseModel, memories: list[SessionMemory]
) -> list[tuple[int, ...]]:
    def reply(outcome: GenerateOutcome) -> tuple[int, ...]:
        tokens: Any = outcome.record.segments[-1].tokens
        return tuple(tokens)

    turns = [replace(ask(text, tokens=TOKENS), plain=True) for text in TEXTS]
    return [reply(answer(engine, memory, turn)) for memory in memories for turn in turns]
