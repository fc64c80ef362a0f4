"""Stored tensors of a session on a frozen backbone: one adapter a level, and the fast memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hope_runtime.errors import CorruptStateError
from hope_runtime.layers.config import ModelConfig
from hope_runtime.layers.lora import STORED_DTYPE, LoraAdapter, shapes
from hope_runtime.models.fast_memory.session import tensor_name
from hope_runtime.models.fast_memory.weights import FastMemory
from hope_runtime.session.layout import Tensors, check_tensors
from hope_runtime.session.policy import LevelConfig


@dataclass(frozen=True, slots=True)
class AdapterLayout:
    """Sessions of a frozen backbone: levels are low-rank terms; what is written forward is the
    memory of the trained fast memory beside it, or of one that it replaces, if there is one."""

    model: ModelConfig
    fast_memory: FastMemory | None = None

    @property
    def vocab_size(self) -> int:
        return self.model.vocab_size

    def level(self, index: int, config: LevelConfig, tensors: Tensors) -> LoraAdapter:
        check_tensors("level", tensors, shapes(self.model, config.rank), STORED_DTYPE)
        return LoraAdapter(**tensors)

    def check_fast(self, tensors: Tensors) -> None:
        if self.fast_memory is None:
            raise CorruptStateError("The session has a fast memory, and the model has none.")
        known = {tensor_name(one): one for one in (self.fast_memory, *self.fast_memory.earlier)}
        name = next((name for name in known if name in tensors), tensor_name(self.fast_memory))
        check_tensors("fast memory", tensors, {name: known[name].shape()}, torch.float32)

    def check_context(self, tensors: Tensors) -> None:
        raise CorruptStateError("A conversation has a context, and the model keeps none.")
