"""Where a session's memory keeps what a trained branch wrote.

One tensor, named after the branch that wrote it, because nothing else can read it. Knows no engine.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from hope_runtime.models.fast_memory.weights import Branch
from hope_runtime.session.memory import FastMemory, SessionMemory


def tensor_name(branch: Branch) -> str:
    """Under which a FastMemory holds what `branch` wrote."""
    return f"branch.{branch.digest[:16]}"


def written(branch: Branch, memory: SessionMemory) -> Tensor | None:
    """What `branch` wrote of the session, (1, H, V, K) float32; None while that is nothing."""
    return None if memory.fast is None else memory.fast.tensors[tensor_name(branch)]


def with_written(branch: Branch, memory: SessionMemory, written_1HVK: Tensor) -> SessionMemory:
    """The session's memory with another fast memory."""
    return replace(memory, fast=FastMemory({tensor_name(branch): written_1HVK}))
