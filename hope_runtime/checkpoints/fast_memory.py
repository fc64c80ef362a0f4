"""A trained fast memory as one safetensors file, and those that come with the package.

The file's header holds the configuration and the fingerprint of the base model for which it was
trained: beside another base it means nothing, and is refused. A base without a trained branch has
none; nothing is ever made up.
"""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from hope_runtime.errors import CorruptModelError, UnsupportedModelError
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.fast_memory.weights import (
    FastMemory,
    FastMemoryConfig,
    FastMemoryWeights,
    check_fits,
    expected_shapes,
)

FORMAT, VERSION = "hope-branch", "1"
_SHIPPED, _EARLIER = "hope_runtime.checkpoints.fast_memories", "earlier"


def save_fast_memory(path: Path, fast_memory: FastMemory, fingerprint: str) -> None:
    """Stores a branch in bfloat16, whole or not at all."""
    tensors = {
        name: tensor.detach().to("cpu", torch.bfloat16).contiguous()
        for name, tensor in fast_memory.weights.named()
    }
    header = {
        "format": FORMAT,
        "version": VERSION,
        "fingerprint": fingerprint,
        "config": json.dumps(fast_memory.config.to_fields(), sort_keys=True),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.tmp")
    safetensors.torch.save_file(tensors, beside, metadata=header)
    beside.replace(path)


def load_fast_memory(path: Path, model: BaseModel) -> FastMemory:
    """A branch for `model`, float32, on its device.

    Raises CorruptModelError, and UnsupportedModelError for a newer format or another base model.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header.get("format") != FORMAT or header.get("version") != VERSION:
            raise UnsupportedModelError(f"{path} is not a {FORMAT} file of version {VERSION}")
        if header.get("fingerprint") != model.fingerprint:
            raise UnsupportedModelError(f"{path} was trained beside another base model")
        config = FastMemoryConfig.from_fields(json.loads(header["config"]))
        if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != expected_shapes(
            config
        ) or not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
            raise CorruptModelError(f"the tensors of {path} are not those of its configuration")
        weights = FastMemoryWeights.from_named(tensors).to(torch.float32, model.device)
        fast_memory = FastMemory(config, weights)
        check_fits(fast_memory, model)
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise CorruptModelError(f"{path} cannot be read: {error!r}") from error
    return fast_memory


def shipped_fast_memory(model: BaseModel) -> FastMemory | None:
    """The fast memory of the package that was trained beside this very model, or None.

    It knows the ones that came with earlier versions of the package, under `earlier/`: sessions
    that they wrote go on with them.
    """
    folder = files(_SHIPPED)
    newest = _beside(model, folder)
    if not newest:
        return None
    return replace(newest[0], earlier=tuple(_beside(model, folder.joinpath(_EARLIER))))


def _beside(model: BaseModel, folder: Traversable) -> list[FastMemory]:
    found: list[FastMemory] = []
    if not folder.is_dir():
        return found
    for entry in sorted(folder.iterdir(), key=lambda one: one.name):
        if entry.name.endswith(".safetensors"):
            with as_file(entry) as path:
                if _fingerprint(path) == model.fingerprint:
                    found.append(load_fast_memory(path, model))
    return found


def _fingerprint(path: Path) -> str | None:
    with safetensors.safe_open(path, framework="pt") as file:
        header = file.metadata() or {}
    return header.get("fingerprint")
