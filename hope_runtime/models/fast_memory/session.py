"""Where a session's memory keeps what a trained fast memory wrote.

One tensor, named after the one that wrote it, because nothing else can read it. A session in which
nothing was written yet begins with the newest; one that an earlier one wrote stays with it. Knows
no engine.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from hope_runtime.models.fast_memory.weights import FastMemory
from hope_runtime.session.memory import FastMemoryState, SessionMemory


def tensor_name(fast_memory: FastMemory) -> str:
    """Under which a FastMemoryState holds what `branch` wrote."""
    return f"branch.{fast_memory.digest[:16]}"


def writer_of(fast_memory: FastMemory, memory: SessionMemory | None) -> FastMemory:
    """The one that wrote the session's fast memory: `fast_memory` or one that it replaces.

    Where nothing was written yet, and of the frozen base (None), it is `fast_memory` itself.
    """
    if memory is None or memory.fast is None:
        return fast_memory
    known = (fast_memory, *fast_memory.earlier)
    return next(one for one in known if tensor_name(one) in memory.fast.tensors)


def written(fast_memory: FastMemory, memory: SessionMemory) -> Tensor | None:
    """What `branch` wrote of the session, (1, H, V, K) float32; None while that is nothing."""
    return None if memory.fast is None else memory.fast.tensors[tensor_name(fast_memory)]


def with_written(
    fast_memory: FastMemory, memory: SessionMemory, written_1HVK: Tensor
) -> SessionMemory:
    """The session's memory with another fast memory."""
    return replace(memory, fast=FastMemoryState({tensor_name(fast_memory): written_1HVK}))
