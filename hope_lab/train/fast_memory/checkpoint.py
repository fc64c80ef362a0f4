"""The state of a run of `hope train fast-memory`: one file that is replaced whole.

Texts and batches are functions of the seed and the step, so weights, the optimiser's tensors and
the step are all there is to know. The fast memory itself, for use, is
checkpoints/fast_memory.py's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from hope_runtime.errors import CorruptModelError, ModelNotFoundError
from hope_runtime.models.fast_memory.weights import FastMemoryWeights

STATE = "training.safetensors"
_WEIGHTS, _OPTIMIZER = "weights.", "optimizer."


@dataclass(frozen=True, slots=True)
class Saved:
    """A run after `step` steps. `settings` are plain values that a resumed run must agree on."""

    step: int
    seconds: float
    settings: Mapping[str, Any]
    weights: FastMemoryWeights
    optimizer_tensors: Mapping[str, Tensor]
    optimizer_values: Mapping[str, Any]


def exists(directory: Path) -> bool:
    """Whether a run has left its state here."""
    return (directory / STATE).exists()


def save(directory: Path, saved: Saved) -> None:
    """Replaces the state of the run."""
    stored = {_WEIGHTS + name: tensor.cpu().contiguous() for name, tensor in saved.weights.named()}
    stored |= {_OPTIMIZER + name: tensor for name, tensor in saved.optimizer_tensors.items()}
    header = {
        "step": str(saved.step),
        "seconds": str(saved.seconds),
        "settings": json.dumps(saved.settings, sort_keys=True),
        "optimizer": json.dumps(saved.optimizer_values),
    }
    beside = directory / f".{STATE}.tmp"
    safetensors.torch.save_file(stored, beside, metadata=header)
    beside.replace(directory / STATE)


def load(directory: Path) -> Saved:
    """The state of the run in a directory. Raises ModelNotFoundError and CorruptModelError."""
    path = directory / STATE
    if not path.exists():
        raise ModelNotFoundError(f"{directory} contains no run")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return Saved(
            int(header["step"]),
            float(header["seconds"]),
            json.loads(header["settings"]),
            FastMemoryWeights.from_named(_under(_WEIGHTS, tensors)),
            _under(_OPTIMIZER, tensors),
            json.loads(header["optimizer"]),
        )
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise CorruptModelError(f"{path} cannot be read: {error!r}") from error


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
