"""What the tensors of a session look like with one model, for whoever reads them from outside.

A layout belongs to an engine; the codec asks it before a tensor is used. Knows no bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from hope_runtime.errors import CorruptStateError
from hope_runtime.models.fast_memory.memory import Branch
from hope_runtime.models.fast_memory.session import tensor_name
from hope_runtime.session.levels import STORED_DTYPE, FullRank, LowRank, shapes
from hope_runtime.session.policy import LevelConfig, ModelConfig

Tensors = Mapping[str, torch.Tensor]


class Layout(Protocol):
    """Each method raises CorruptStateError for tensors that are not what the model would make.

    Whether their values are finite is looked at elsewhere.
    """

    @property
    def vocab_size(self) -> int: ...

    def level(self, index: int, config: LevelConfig, tensors: Tensors) -> LowRank | FullRank:
        """What level `index` has learnt."""
        ...

    def check_fast(self, tensors: Tensors) -> None:
        """Those of a FastMemory."""
        ...

    def check_context(self, tensors: Tensors) -> None:
        """Those of a Conversation's context."""
        ...


@dataclass(frozen=True, slots=True)
class LowRankLayout:
    """Sessions of a frozen backbone: levels are low-rank terms; what is written forward is the
    memory of the trained branch beside it, if there is one."""

    model: ModelConfig
    branch: Branch | None = None

    @property
    def vocab_size(self) -> int:
        return self.model.vocab_size

    def level(self, index: int, config: LevelConfig, tensors: Tensors) -> LowRank:
        check_tensors("level", tensors, shapes(self.model, config.rank), STORED_DTYPE)
        return LowRank(**tensors)

    def check_fast(self, tensors: Tensors) -> None:
        if self.branch is None:
            raise CorruptStateError("The session has a fast memory, and the model has none.")
        shape = self.branch.shape()
        check_tensors("fast memory", tensors, {tensor_name(self.branch): shape}, torch.float32)

    def check_context(self, tensors: Tensors) -> None:
        raise CorruptStateError("A conversation has a context, and the model keeps none.")


def check_tensors(
    kind: str,
    tensors: Tensors,
    expected: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype | Mapping[str, torch.dtype],
) -> None:
    """Raises CorruptStateError unless the tensors have the names, shapes and dtypes expected."""
    if set(tensors) != set(expected):
        wrong = sorted(set(tensors) ^ set(expected))
        raise CorruptStateError(
            f"A {kind} has {len(tensors)} tensors and should have {len(expected)}; the first that "
            f"is missing or too many is {wrong[0]}."
        )
    for name, shape in expected.items():
        tensor = tensors[name]
        wanted = dtype if isinstance(dtype, torch.dtype) else dtype[name]
        if tuple(tensor.shape) != shape or tensor.dtype != wanted:
            raise CorruptStateError(
                f"Tensor {name} of a {kind} is {tensor.dtype} {tuple(tensor.shape)}, not "
                f"{wanted} {shape}."
            )
