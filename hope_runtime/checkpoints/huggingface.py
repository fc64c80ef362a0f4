"""Directories in Hugging Face's layout -> configuration, weights and tokenizer.

Reads safetensors, whole or sharded; needs no transformers. Leaves the meaning of config.json and of
the tensors' names to models/, the tokenizer to huggingface_tokenizer.py,
fetching from the hub to __init__.py and storing to converted_cache.py.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from hope_runtime.checkpoints.files import read_json, refuse_pointer
from hope_runtime.checkpoints.huggingface_tokenizer import read_tokenizer
from hope_runtime.errors import (
    CorruptModelError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from hope_runtime.layers.config import ModelConfig
from hope_runtime.models.decoder.config_json import config_from_json
from hope_runtime.models.decoder.family import Progress
from hope_runtime.models.decoder.read_weights import weights_from_safetensors
from hope_runtime.models.decoder.weights import BaseWeights
from hope_runtime.models.registry import family_of_model_type
from hope_runtime.tokenizer import Tokenizer


def read_huggingface(path: Path, progress: Progress) -> tuple[ModelConfig, BaseWeights, Tokenizer]:
    """Read a directory with config.json, *.safetensors and tokenizer.json; dtypes as stored.

    Raises ModelNotFoundError, CorruptModelError (truncated; a tensor missing or misshapen),
    UnsupportedModelError (architecture), TokenizerMissingError.
    """
    raw = read_json(path / "config.json")
    if raw is None:
        files = ", ".join(sorted(file.name for file in path.glob("*.gguf")))
        hint = f"; name one of its files: {files}" if files else ""
        raise ModelNotFoundError(f"{path} does not contain config.json{hint}")
    family = family_of_model_type(path, raw.get("model_type"))
    with ExitStack() as stack:
        source = _Source(path, stack)
        config = config_from_json(family, raw, source)
        tokenizer = read_tokenizer(path, raw)
        return config, weights_from_safetensors(family, config, source, progress), tokenizer


class _Source:
    """Tensors of a directory by name, whichever file holds them.

    Files are opened at the first use, so that a configuration that is refused says so even where
    weights are missing.
    """

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path = path
        self._stack = stack
        self._opened: dict[str, Any] | None = None

    @property
    def _files(self) -> dict[str, Any]:
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def _open(self) -> dict[str, Any]:
        path = self.path
        index = read_json(path / "model.safetensors.index.json")
        names = (
            sorted(set(index.get("weight_map", {}).values())) if index else ["model.safetensors"]
        )
        found: dict[str, Any] = {}
        for name in names:
            file = path / name
            if file.parent != path or not file.is_file():
                raise ModelNotFoundError(f"{path} does not contain {name}")
            refuse_pointer(file)
            try:
                opened = self._stack.enter_context(safetensors.safe_open(file, framework="pt"))
            except (safetensors.SafetensorError, OSError) as error:
                raise CorruptModelError(f"{file} cannot be read: {error}") from error
            found |= dict.fromkeys(opened.keys(), opened)
        return found

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a tensor; None where there is none of this name."""
        if name not in self._files:
            return None
        return tuple(self._files[name].get_slice(name).get_shape())

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A tensor, checked. Raises CorruptModelError, UnsupportedModelError (its dtype)."""
        if name not in self._files:
            raise CorruptModelError(f"{self.path} does not contain the tensor {name}")
        tensor: Tensor = self._files[name].get_tensor(name)
        if tuple(tensor.shape) != shape:
            raise CorruptModelError(
                f"tensor {name} of {self.path} has shape {tuple(tensor.shape)} instead of {shape}"
            )
        if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise UnsupportedModelError(
                f"tensor {name} of {self.path} has dtype {tensor.dtype}; only float32, bfloat16 "
                "and float16 are supported"
            )
        return tensor
