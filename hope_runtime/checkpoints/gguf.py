"""GGUF files: header and quantised tensors -> configuration, weights and tokenizer.

Leaves the container and its quantised tensors to gguf_file.py, the tokenizer in it to
gguf_tokenizer.py, the meaning of metadata and of the tensors' names to models/,
and storing the result to converted_cache.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hope_runtime.checkpoints.gguf_file import GGUFFile
from hope_runtime.checkpoints.gguf_tokenizer import tokenizer_from_metadata
from hope_runtime.errors import CorruptModelError, UnsupportedModelError
from hope_runtime.layers.config import ModelConfig
from hope_runtime.models.decoder.config_gguf import config_from_gguf
from hope_runtime.models.decoder.family import Progress
from hope_runtime.models.decoder.read_weights import weights_from_gguf
from hope_runtime.models.decoder.weights import BaseWeights
from hope_runtime.models.registry import family_of_gguf
from hope_runtime.tokenizer import Tokenizer


def read_gguf(path: Path, progress: Progress) -> tuple[ModelConfig, BaseWeights, Tokenizer]:
    """Read a .gguf file; the weights are dequantised exactly, float32, on the CPU.

    Raises ModelNotFoundError, CorruptModelError (truncated; a tensor missing or misshapen),
    UnsupportedModelError (architecture, quantisation, tokenizer), TokenizerMissingError.
    """
    file = GGUFFile(path)
    _check_whole(path, file.metadata)
    family = family_of_gguf(path, file.metadata.get("general.architecture"))
    source = _Source(file)
    config = config_from_gguf(family, file.metadata, source)
    tokenizer = tokenizer_from_metadata(path, file.metadata)
    return config, weights_from_gguf(family, config, source, progress), tokenizer


def _check_whole(path: Path, metadata: Mapping[str, Any]) -> None:
    """Raise UnsupportedModelError for a part of a model and for what is none by itself."""
    if (count := metadata.get("split.count", 0)) not in (0, 1):
        raise UnsupportedModelError(
            f"{path} is one of {count} parts of a split model; put them together with "
            "`llama-gguf-split --merge FIRST_PART WHOLE.gguf` and load the result"
        )
    if (kind := metadata.get("general.type", "model")) != "model":
        raise UnsupportedModelError(f"{path} contains a {kind!r} and no model of its own")


class _Source:
    """Tensors of a GGUF file by name, dequantised and checked as they are taken."""

    def __init__(self, file: GGUFFile) -> None:
        self._file = file
        self.path = file.path

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a tensor; None where there is none of this name."""
        entry = self._file.tensors.get(name)
        return None if entry is None else entry.shape

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A tensor, float32. Raises CorruptModelError when it is missing or misshapen."""
        found = self.shape(name)
        if found is None:
            raise CorruptModelError(f"{self.path} does not contain the tensor {name}")
        if found != shape:
            raise CorruptModelError(
                f"tensor {name} of {self.path} has shape {found} instead of {shape}"
            )
        return torch.from_numpy(self._file.read(name))
