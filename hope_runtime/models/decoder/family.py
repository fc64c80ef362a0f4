"""A model family: everything about an architecture that is not in its tensors.

A family is data for one decoder block, never a block of its own: it says how a config.json and the
metadata of a GGUF file become a ModelConfig, and how their tensors become the fused weights of
weights.py. Decoding containers (safetensors, GGUF quantisation) and tokenizers is left to
checkpoints/.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from hope_runtime.layers.config import ModelConfig
from hope_runtime.models.decoder.weights import BaseWeights

Progress = Callable[[float, str], None]
"""Called with the fraction that is done, 0 to 1, and a text that names the present step."""


class TensorSource(Protocol):
    """The tensors of a checkpoint by name, on the CPU."""

    @property
    def path(self) -> Path:
        """The file or directory, for error messages."""
        ...

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a tensor; None when the checkpoint has none of this name."""
        ...

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A tensor of the expected shape; raises CorruptModelError when it is missing or has
        another shape, UnsupportedModelError for a dtype that cannot be read."""
        ...


ReadConfig = Callable[[Mapping[str, Any], TensorSource], ModelConfig]
"""Configuration from a parsed config.json, or from GGUF metadata. Raises CorruptModelError for a
missing key and UnsupportedModelError for a feature that the decoder block lacks."""

ReadWeights = Callable[[ModelConfig, TensorSource, Progress], BaseWeights]
"""Weights of a configuration, in their stored dtypes, fused and permuted as weights.py has them."""


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture and its relatives that load the same way.

    `model_types` are its names in config.json ("model_type"), `gguf_architectures` those in a GGUF
    file ("general.architecture").
    """

    name: str
    model_types: tuple[str, ...]
    gguf_architectures: tuple[str, ...]
    config_from_json: ReadConfig
    weights_from_safetensors: ReadWeights
    config_from_gguf: ReadConfig
    weights_from_gguf: ReadWeights
