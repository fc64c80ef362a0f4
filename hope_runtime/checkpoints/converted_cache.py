"""Our own layout of a base model on disk: what every other format is converted to, once.

    manifest.json        format, version, fingerprints, digest of the chat template, the source,
                         and the size of the weights; marks the whole
    config.json          the fields of ModelConfig
    tokenizer.json       Tokenizer.to_json
    weights.safetensors  the tensors of BaseWeights.named, fused as the forward pass wants them

A directory appears whole or not at all: it is written beside its place and renamed. Knows no
other format and not where the cache is; __init__.py does.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from hope_runtime.errors import CorruptModelError, UnsupportedModelError
from hope_runtime.layers.config import ModelConfig
from hope_runtime.models.decoder.weights import (
    BaseModel,
    BaseWeights,
    expected_shapes,
    fingerprint_of,
    first_fingerprint_of,
    from_named,
)
from hope_runtime.tokenizer import Tokenizer

FORMAT, VERSION = "hope-native", 1

# Entries of a manifest: the fingerprint, others under which sessions of the same model were stored,
# the digest of the chat template, the path that it was converted from, and its name.
IDENTITY, FORMER, TEMPLATE, SOURCE, NAME = "identity", "former", "template", "source", "name"

_MANIFEST, _CONFIG, _TOKENIZER = "manifest.json", "config.json", "tokenizer.json"
_WEIGHTS = "weights.safetensors"
_STALE_SECONDS = 3600.0


def is_converted(directory: Path) -> bool:
    """Whether a directory holds a complete model in this format and version."""
    try:
        manifest = json.loads((directory / _MANIFEST).read_text(encoding="utf-8"))
        size = (directory / _WEIGHTS).stat().st_size
        return (
            manifest["format"] == FORMAT
            and manifest["version"] == VERSION
            and manifest["weights_bytes"] == size
            and (directory / _CONFIG).is_file()
            and (directory / _TOKENIZER).is_file()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def claims_converted(directory: Path) -> bool:
    """Whether a directory says that it is in this format, complete or not, of any version."""
    try:
        manifest = json.loads((directory / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and manifest.get("format") == FORMAT


def load_converted(directory: Path) -> BaseModel:
    """Map a model into memory, in its stored dtype, on the CPU; the pages load when first used.

    The fingerprint is the manifest's: hashing the weights again would cost more than all the rest.
    A manifest of before, which has only the first one, is completed where that is allowed.
    Raises CorruptModelError, UnsupportedModelError (a version that is not known).
    """
    try:
        manifest = read_manifest(directory)
        if manifest["format"] != FORMAT or manifest["version"] != VERSION:
            raise UnsupportedModelError(
                f"{directory} has format {manifest['format']} version {manifest['version']}; "
                f"only {FORMAT} version {VERSION} is supported"
            )
        size = (directory / _WEIGHTS).stat().st_size
        if size != manifest["weights_bytes"]:
            raise CorruptModelError(
                f"{directory / _WEIGHTS} has {size} bytes instead of {manifest['weights_bytes']}"
            )
        fields = json.loads((directory / _CONFIG).read_text(encoding="utf-8"))
        config = ModelConfig.from_fields(fields)
        stored = json.loads((directory / _TOKENIZER).read_text(encoding="utf-8"))
        tensors = safetensors.torch.load_file(directory / _WEIGHTS)
        _check(directory, config, tensors)
        weights, tokenizer = from_named(config, tensors), Tokenizer.from_json(stored)
        if IDENTITY not in manifest:
            manifest[IDENTITY] = fingerprint_of(config, weights, tokenizer)
            with contextlib.suppress(OSError):
                write_manifest(directory, manifest)
        return BaseModel(
            config=config,
            weights=weights,
            tokenizer=tokenizer,
            fingerprint=str(manifest[IDENTITY]),
            former=frozenset((str(manifest["fingerprint"]), *manifest.get(FORMER, ()))),
            name=str(manifest.get(NAME, directory.name)),
        )
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise CorruptModelError(f"{directory} cannot be read: {error!r}") from error


def read_manifest(directory: Path) -> dict[str, Any]:
    """Manifest of a converted model. Raises OSError, ValueError, TypeError."""
    manifest = json.loads((directory / _MANIFEST).read_text(encoding="utf-8"))
    if not isinstance(manifest, dict):
        raise TypeError("the manifest must be a JSON object")
    return manifest


def write_manifest(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Replaces a model's manifest, whole or not at all. Raises OSError."""
    building = directory / f".{_MANIFEST}.{secrets.token_hex(6)}"
    try:
        building.write_text(json.dumps(manifest, indent=1), "utf-8")
        _sync(building)
        building.replace(directory / _MANIFEST)
    finally:
        building.unlink(missing_ok=True)


def save_converted(
    directory: Path,
    config: ModelConfig,
    weights: BaseWeights,
    tokenizer: Tokenizer,
    notes: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Store a model so that it can be loaded by `load_converted`; the directory appears whole.

    `notes` are further entries of the manifest. Where another process has put a complete model in
    the meantime, that one stays. Whatever else is in the place (half of a model, something
    foreign) is replaced.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    _sweep(directory)
    building = _sibling(directory, "tmp")
    building.mkdir()
    try:
        tensors = {name: tensor.contiguous() for name, tensor in weights.named()}
        _check(directory, config, tensors)
        safetensors.torch.save_file(tensors, building / _WEIGHTS)
        (building / _CONFIG).write_text(json.dumps(config.to_fields(), indent=1), "utf-8")
        (building / _TOKENIZER).write_text(tokenizer.to_json(), "utf-8")
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            # The first kind of fingerprint, by which older programs know the model.
            "fingerprint": first_fingerprint_of(config, weights, tokenizer),
            IDENTITY: fingerprint_of(config, weights, tokenizer),
            TEMPLATE: tokenizer.template_digest,
            "weights_bytes": (building / _WEIGHTS).stat().st_size,
            **notes,
        }
        (building / _MANIFEST).write_text(json.dumps(manifest, indent=1), "utf-8")
        for file in building.iterdir():
            _sync(file)
        _place(building, directory)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def remove_converted(directory: Path) -> None:
    """Takes a model away, at once for everybody: a process that has it open goes on with it."""
    aside = _sibling(directory, "old")
    with contextlib.suppress(OSError):
        directory.rename(aside)
    _remove(aside)


def _place(building: Path, directory: Path) -> None:
    # Renaming onto a directory that is not empty fails, so a complete model is never replaced.
    # Moving an incomplete one aside is a rename too: of two processes that try, one gets it.
    for _ in range(10):
        with contextlib.suppress(OSError):
            building.rename(directory)
            _sync(directory.parent)
            return
        if is_converted(directory):
            return
        aside = _sibling(directory, "old")
        with contextlib.suppress(OSError):
            directory.rename(aside)
        if is_converted(aside):
            # It was completed between the look and the rename: put it back, first come.
            with contextlib.suppress(OSError):
                aside.rename(directory)
        _remove(aside)
    raise CorruptModelError(f"{directory} cannot be written; remove it and retry")


def _sibling(directory: Path, kind: str) -> Path:
    return directory.with_name(f".{directory.name}.{kind}-{secrets.token_hex(6)}")


def _sweep(directory: Path) -> None:
    """Remove what converters that were killed have left; none takes an hour."""
    for kind in ("tmp", "old"):
        for left in directory.parent.glob(f".{directory.name}.{kind}-*"):
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                    _remove(left)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Put a file or a directory's entries on the disk; the rename must not overtake the bytes."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check(directory: Path, config: ModelConfig, tensors: dict[str, Tensor]) -> None:
    shapes = expected_shapes(config)
    for name, shape in shapes.items():
        if name not in tensors:
            raise CorruptModelError(f"{directory} does not contain the tensor {name}")
        if tuple(tensors[name].shape) != shape:
            raise CorruptModelError(
                f"tensor {name} of {directory} has shape {tuple(tensors[name].shape)} instead of "
                f"{shape}"
            )
