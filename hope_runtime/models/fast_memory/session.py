"""Where a session's memory keeps what a trained branch wrote.

One tensor, named after the branch that wrote it, because nothing else can read it. Knows no engine.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from hope_runtime.models.fast_memory.weights import FastMemory
from hope_runtime.session.memory import FastMemoryState, SessionMemory


def tensor_name(fast_memory: FastMemory) -> str:
    """Under which a FastMemoryState holds what `branch` wrote."""
    return f"branch.{fast_memory.digest[:16]}"


def written(fast_memory: FastMemory, memory: SessionMemory) -> Tensor | None:
    """What `branch` wrote of the session, (1, H, V, K) float32; None while that is nothing."""
    return None if memory.fast is None else memory.fast.tensors[tensor_name(fast_memory)]


def with_written(
    fast_memory: FastMemory, memory: SessionMemory, written_1HVK: Tensor
) -> SessionMemory:
    """The session's memory with another fast memory."""
    return replace(memory, fast=FastMemoryState({tensor_name(fast_memory): written_1HVK}))
