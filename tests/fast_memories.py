"""Small branches beside the models of the tests, and memories that they did not write."""

from __future__ import annotations

import torch
from torch import Tensor

from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.fast_memory.weights import (
    FastMemory,
    FastMemoryConfig,
    FastMemoryWeights,
    expected_shapes,
)


def small_fast_memory(model: BaseModel, seed: int = 0) -> FastMemory:
    """Random everywhere, biases too: what training may make of it."""
    config = FastMemoryConfig(
        d_model=model.config.d_model,
        sources=(0, 1),
        target=model.config.n_layers,
        key_width=12,
        value_width=10,
        input_width=14,
        hidden=16,
    )
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.randn(shape, generator=generator) / shape[-1] ** 0.5
        for name, shape in expected_shapes(config).items()
    }
    return FastMemory(config, FastMemoryWeights.from_named(tensors))


def noise(fast_memory: FastMemory, seed: int) -> Tensor:
    """A memory whose effect shows, (1, H, V, K)."""
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(fast_memory.shape(), generator=generator)
