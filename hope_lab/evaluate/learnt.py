"""The part of a session's memory that a forward pass reads: adapters and fast memory.

Evaluations run passes of their own, many questions at once; the engine does the same with its rows
(engine/reader.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hope_runtime.layers.lora import LoraAdapter
from hope_runtime.models.fast_memory.memory import FastMemoryPass, FastMemoryStream, fresh_carry
from hope_runtime.models.fast_memory.session import written
from hope_runtime.models.fast_memory.weights import FastMemory
from hope_runtime.session.memory import SessionMemory


@dataclass(frozen=True, slots=True)
class Beside:
    """A trained branch and what it wrote, `memory` (1, H, V, K) float32."""

    fast_memory: FastMemory
    memory: Tensor

    def begins(self, rows: int = 1) -> FastMemoryStream:
        """The state of some rows at the beginning of a window."""
        memory = self.memory.to(self.fast_memory.weights.out.device)
        carry = fresh_carry(self.fast_memory.config, rows, memory.device)
        return FastMemoryStream(memory.expand(rows, -1, -1, -1), carry)

    def reads(self) -> FastMemoryPass:
        """For one pass over a row at the beginning of its window."""
        return FastMemoryPass(self.fast_memory, self.begins())


@dataclass(frozen=True, slots=True)
class Learnt:
    """`terms` of the levels, as stored, and what stands beside the model; both None, or NOTHING,
    is the frozen base."""

    adapter: LoraAdapter | None = None
    beside: Beside | None = None


NOTHING = Learnt()


def learnt_of(memory: SessionMemory, fast_memory: FastMemory | None) -> Learnt:
    """Adapters and fast memory of `memory`, on a model with this branch."""
    fast = None if fast_memory is None else written(fast_memory, memory)
    beside = None if fast_memory is None or fast is None else Beside(fast_memory, fast)
    return Learnt(memory.adapter, beside)
