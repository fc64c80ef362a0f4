"""What a pass of the model reads of a session's memory: its levels, and its fast memory.

Evaluations run passes of their own, many questions at once; the engine does the same with its rows
(engine/reader.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hope_runtime.layers.lora import LowRank
from hope_runtime.models.fast_memory.memory import BranchPass, BranchState, fresh_carry
from hope_runtime.models.fast_memory.session import written
from hope_runtime.models.fast_memory.weights import Branch
from hope_runtime.session.memory import SessionMemory


@dataclass(frozen=True, slots=True)
class Beside:
    """A trained branch and what it wrote, `memory` (1, H, V, K) float32."""

    branch: Branch
    memory: Tensor

    def begins(self, rows: int = 1) -> BranchState:
        """The state of some rows at the beginning of a window."""
        memory = self.memory.to(self.branch.weights.out.device)
        carry = fresh_carry(self.branch.config, rows, memory.device)
        return BranchState(memory.expand(rows, -1, -1, -1), carry)

    def reads(self) -> BranchPass:
        """For one pass over a row at the beginning of its window."""
        return BranchPass(self.branch, self.begins())


@dataclass(frozen=True, slots=True)
class Learnt:
    """`terms` of the levels, as stored, and what stands beside the model; both None, or NOTHING,
    is the frozen base."""

    terms: LowRank | None = None
    beside: Beside | None = None


NOTHING = Learnt()


def learnt_of(memory: SessionMemory, branch: Branch | None) -> Learnt:
    """What `memory` holds, on a model with this branch."""
    fast = None if branch is None else written(branch, memory)
    beside = None if branch is None or fast is None else Beside(branch, fast)
    return Learnt(memory.terms, beside)
