"""The file of a fast memory: what it holds, and for which base model it is taken."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fast_memories import small_fast_memory

from hope_runtime.checkpoints.fast_memory import (
    load_fast_memory,
    save_fast_memory,
    shipped_fast_memory,
)
from hope_runtime.errors import CorruptModelError, UnsupportedModelError
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.fast_memory.weights import FastMemory, FastMemoryWeights


def test_a_fast_memory_is_stored_for_one_base_model(chat_model: BaseModel, tmp_path: Path) -> None:
    fast_memory = small_fast_memory(chat_model, 3)
    config = fast_memory.config
    path = tmp_path / "fast_memory.safetensors"
    save_fast_memory(path, fast_memory, chat_model.fingerprint)
    loaded = load_fast_memory(path, chat_model)
    assert loaded.config == config
    for (name, mine), (_, theirs) in zip(
        fast_memory.weights.named(), loaded.weights.named(), strict=True
    ):
        assert torch.equal(mine.bfloat16().float(), theirs), name
    assert shipped_fast_memory(chat_model) is None
    save_fast_memory(path, fast_memory, "another base")
    with pytest.raises(UnsupportedModelError, match="another base model"):
        load_fast_memory(path, chat_model)
    broken = dict(fast_memory.weights.named())
    broken["out"] = torch.full_like(broken["out"], float("nan"))
    save_fast_memory(
        path, FastMemory(config, FastMemoryWeights.from_named(broken)), chat_model.fingerprint
    )
    with pytest.raises(CorruptModelError):
        load_fast_memory(path, chat_model)
    path.write_bytes(b"nothing")
    with pytest.raises(CorruptModelError):
        load_fast_memory(path, chat_model)
