"""Fast memory of a session: the tensor of a SessionMemory that a trained fast memory wrote.

One tensor, named after the fast memory that wrote it, because nothing else can read it. Knows no
engine.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from hope_runtime.models.fast_memory.weights import FastMemory
from hope_runtime.session.memory import FastMemoryState, SessionMemory


def tensor_name(fast_memory: FastMemory) -> str:
    """Name of the tensor that `fast_memory` wrote in a FastMemoryState."""
    return f"branch.{fast_memory.digest[:16]}"


def written(fast_memory: FastMemory, memory: SessionMemory) -> Tensor | None:
    """Tensor that `fast_memory` wrote of the session, (1, H, V, K) float32; None while there is
    none."""
    return None if memory.fast is None else memory.fast.tensors[tensor_name(fast_memory)]


def with_written(
    fast_memory: FastMemory, memory: SessionMemory, written_1HVK: Tensor
) -> SessionMemory:
    """The session's memory with another fast memory."""
    return replace(memory, fast=FastMemoryState({tensor_name(fast_memory): written_1HVK}))
