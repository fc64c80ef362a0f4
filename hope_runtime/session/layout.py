"""Layout of a session's tensors with one model, against which stored ones are checked.

A layout belongs to an engine; the codec asks it before a tensor is used. Knows no bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from hope_runtime.errors import CorruptStateError
from hope_runtime.layers.lora import LoraAdapter
from hope_runtime.session.levels import FullRank
from hope_runtime.session.policy import LevelConfig

Tensors = Mapping[str, torch.Tensor]


class Layout(Protocol):
    """Each method raises CorruptStateError for tensors that are not what the model would make.

    Whether their values are finite is looked at elsewhere.
    """

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""
        ...

    def level(self, index: int, config: LevelConfig, tensors: Tensors) -> LoraAdapter | FullRank:
        """The level `index` of these tensors."""
        ...

    def check_fast(self, tensors: Tensors) -> None:
        """Check the tensors of a FastMemoryState."""
        ...

    def check_context(self, tensors: Tensors) -> None:
        """Check the tensors of a Conversation's context."""
        ...


def check_tensors(
    kind: str,
    tensors: Tensors,
    expected: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype | Mapping[str, torch.dtype],
) -> None:
    """Raise CorruptStateError unless the tensors have the names, shapes and dtypes expected."""
    if set(tensors) != set(expected):
        wrong = sorted(set(tensors) ^ set(expected))
        raise CorruptStateError(
            f"a {kind} has {len(tensors)} tensors instead of {len(expected)}; the first missing "
            f"or extra one is {wrong[0]}"
        )
    for name, shape in expected.items():
        tensor = tensors[name]
        wanted = dtype if isinstance(dtype, torch.dtype) else dtype[name]
        if tuple(tensor.shape) != shape or tensor.dtype != wanted:
            raise CorruptStateError(
                f"tensor {name} of a {kind} has dtype {tensor.dtype} and shape "
                f"{tuple(tensor.shape)} instead of {wanted} and {shape}"
            )
