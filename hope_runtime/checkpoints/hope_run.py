"""Checkpoints of a run: a directory that appears whole, by one rename, or not at all.

    step-00000400/
      run.json               format, version, step, and the run's settings
      weights.safetensors    HopeWeights.named; the task's own under "readout."
      tokenizer.json         Tokenizer.to_json, of a model of text
      optimizer.safetensors  the optimiser's tensors
    log.jsonl                belongs to log.py

A batch is a function of the seed and the step, so the step is all that there is to know of random
numbers. A model of text can be served from its directory (checkpoints/trained.py): run.json then
has the fingerprint that its sessions are learnt under. Knows nothing of training itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from hope_runtime.errors import (
    CorruptModelError,
    ModelNotFoundError,
    TokenizerMissingError,
    UnsupportedModelError,
)
from hope_runtime.models.hope.config import HopeConfig
from hope_runtime.models.hope.served import HopeModel, fingerprint_of
from hope_runtime.models.hope.weights import HopeWeights, from_named
from hope_runtime.tokenizer import Tokenizer

FORMAT, VERSION = "hope-training", 1
_RUN, _WEIGHTS, _OPTIMIZER = "run.json", "weights.safetensors", "optimizer.safetensors"
_TOKENIZER = "tokenizer.json"
_READOUT = "readout."
_PREFIX = "step-"


@dataclass(frozen=True, slots=True)
class Saved:
    """A run after `step` steps. `settings` are plain values that say what was trained, and how."""

    step: int
    config: HopeConfig
    settings: Mapping[str, Any]
    weights: HopeWeights
    readout: Mapping[str, Tensor]
    optimizer_tensors: Mapping[str, Tensor]
    optimizer_values: Mapping[str, Any]
    tokenizer: Tokenizer | None = None


def save(directory: Path, saved: Saved) -> Path:
    """Stores a run's state and then removes the ones before it. Returns where it lies."""
    directory.mkdir(parents=True, exist_ok=True)
    place = directory / f"{_PREFIX}{saved.step:08d}"
    building = directory / f".{place.name}.{secrets.token_hex(4)}"
    building.mkdir()
    try:
        tensors = dict(saved.weights.named())
        tensors |= {_READOUT + name: tensor for name, tensor in saved.readout.items()}
        safetensors.torch.save_file(_stored(tensors), building / _WEIGHTS)
        safetensors.torch.save_file(_stored(saved.optimizer_tensors), building / _OPTIMIZER)
        run = {
            "format": FORMAT,
            "version": VERSION,
            "step": saved.step,
            "model": saved.config.to_fields(),
            "settings": dict(saved.settings),
            "optimizer": dict(saved.optimizer_values),
        }
        if saved.tokenizer is not None:
            run["fingerprint"] = fingerprint_of(saved.config, saved.weights, saved.tokenizer)
            (building / _TOKENIZER).write_text(saved.tokenizer.to_json(), encoding="utf-8")
        (building / _RUN).write_text(json.dumps(run, indent=1), encoding="utf-8")
        for file in building.iterdir():
            _sync(file)
        if place.exists():
            # Only a run that was interrupted right after this step comes here again.
            shutil.rmtree(place)
        building.rename(place)
        _sync(directory)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    for older in _complete(directory)[:-1]:
        shutil.rmtree(older, ignore_errors=True)
    return place


def exists(directory: Path) -> bool:
    """Whether a run has left a checkpoint here."""
    return bool(_complete(directory))


def load(directory: Path) -> Saved:
    """The newest checkpoint of a run's directory, on the CPU.

    Raises ModelNotFoundError, UnsupportedModelError (a newer format) and CorruptModelError.
    """
    place = _newest(directory)
    with _reading(place):
        run = _run(place)
        config, weights, readout = _weights(place, run)
        return Saved(
            step=int(run["step"]),
            config=config,
            settings=run["settings"],
            weights=weights,
            readout=readout,
            optimizer_tensors=safetensors.torch.load_file(place / _OPTIMIZER),
            optimizer_values=run["optimizer"],
            tokenizer=_tokenizer(place),
        )


def load_model(directory: Path) -> HopeModel:
    """The model of the newest checkpoint of a run's directory, or of one checkpoint itself.

    On the CPU. Raises as `load` does, and TokenizerMissingError for a model that was not trained
    on text, or before checkpoints kept their tokenizer.
    """
    place = directory if (directory / _RUN).is_file() else _newest(directory)
    with _reading(place):
        run = _run(place)
        tokenizer = _tokenizer(place)
        if tokenizer is None:
            task = run["settings"].get("task", "something else")
            raise TokenizerMissingError(
                f"{place} has no tokenizer because it was trained on {task}; only runs of `hope "
                "train --task text` can be served"
            )
        config, weights, _ = _weights(place, run)
        fingerprint = fingerprint_of(config, weights, tokenizer)
        if fingerprint != run["fingerprint"]:
            raise CorruptModelError(f"the files of {place} do not belong to one checkpoint")
        return HopeModel(config, weights, tokenizer, fingerprint)


def is_run(directory: Path) -> bool:
    """Whether a directory says that it is a run's, or one checkpoint of a run."""
    return (directory / _RUN).is_file() or exists(directory)


def _newest(directory: Path) -> Path:
    complete = _complete(directory)
    if not complete:
        raise ModelNotFoundError(f"{directory} contains no checkpoint")
    return complete[-1]


@contextlib.contextmanager
def _reading(place: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise CorruptModelError(f"{place} cannot be read: {error!r}") from error


def _run(place: Path) -> dict[str, Any]:
    run: dict[str, Any] = json.loads((place / _RUN).read_text(encoding="utf-8"))
    if run["format"] != FORMAT or run["version"] != VERSION:
        raise UnsupportedModelError(
            f"{place} has format {run['format']} version {run['version']}; only {FORMAT} version "
            f"{VERSION} is supported"
        )
    return run


def _weights(
    place: Path, run: Mapping[str, Any]
) -> tuple[HopeConfig, HopeWeights, dict[str, Tensor]]:
    """The model and the task's readout."""
    config = HopeConfig.from_fields(run["model"])
    tensors = safetensors.torch.load_file(place / _WEIGHTS)
    readout = {
        name.removeprefix(_READOUT): tensors.pop(name)
        for name in sorted(tensors)
        if name.startswith(_READOUT)
    }
    return config, from_named(config, tensors), readout


def _tokenizer(place: Path) -> Tokenizer | None:
    file = place / _TOKENIZER
    if not file.is_file():
        return None
    return Tokenizer.from_json(json.loads(file.read_text(encoding="utf-8")))


def _complete(directory: Path) -> list[Path]:
    return sorted(path.parent for path in directory.glob(f"{_PREFIX}*/{_RUN}"))


def _stored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Of tensors that share storage each is written whole.
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def _sync(path: Path) -> None:
    """Put a file or a directory's entries on the disk; the rename must not overtake the bytes."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
