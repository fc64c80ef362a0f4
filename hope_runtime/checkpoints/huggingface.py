"""Directories in Hugging Face's layout -> configuration, weights and tokenizer.

Reads safetensors, whole or sharded, and the files beside tokenizer.json; needs no transformers.
Leaves the meaning of config.json and of the tensors' names to the families (models/registry.py),
fetching from the hub to __init__.py and storing to converted_cache.py.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from hope_runtime.checkpoints.gguf_tokenizer import END_TOKENS
from hope_runtime.errors import (
    CorruptModelError,
    ModelNotFoundError,
    TokenizerMissingError,
    UnsupportedModelError,
)
from hope_runtime.layers.config import ModelConfig
from hope_runtime.models.decoder.family import Progress
from hope_runtime.models.decoder.weights import BaseWeights
from hope_runtime.models.registry import family_of_model_type
from hope_runtime.tokenizer import Tokenizer


def read_huggingface(path: Path, progress: Progress) -> tuple[ModelConfig, BaseWeights, Tokenizer]:
    """Read a directory with config.json, *.safetensors and tokenizer.json; dtypes as stored.

    Raises ModelNotFoundError, CorruptModelError (truncated; a tensor missing or misshapen),
    UnsupportedModelError (architecture), TokenizerMissingError.
    """
    raw = _read_json(path / "config.json")
    if raw is None:
        raise ModelNotFoundError(f"{path} does not contain config.json")
    family = family_of_model_type(path, raw.get("model_type"))
    with ExitStack() as stack:
        source = _Source(path, stack)
        config = family.config_from_json(raw, source)
        tokenizer = _read_tokenizer(path, raw)
        return config, family.weights_from_safetensors(config, source, progress), tokenizer


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
        index = _read_json(path / "model.safetensors.index.json")
        names = (
            sorted(set(index.get("weight_map", {}).values())) if index else ["model.safetensors"]
        )
        found: dict[str, Any] = {}
        for name in names:
            file = path / name
            if file.parent != path or not file.is_file():
                raise ModelNotFoundError(f"{path} does not contain {name}")
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


def _read_tokenizer(path: Path, raw: dict[str, Any]) -> Tokenizer:
    file = path / "tokenizer.json"
    if not file.is_file():
        raise TokenizerMissingError(f"{path} does not contain tokenizer.json")
    text = file.read_text(encoding="utf-8")
    try:
        described = json.loads(text)
        added = {
            token["id"]: token["content"]
            for token in described.get("added_tokens", ())
            if token.get("special")
        }
        model_vocabulary = described.get("model", {}).get("vocab", {})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CorruptModelError(f"{file} cannot be read: {error}") from error
    settings = _read_json(path / "tokenizer_config.json") or {}
    generation = _read_json(path / "generation_config.json") or {}
    by_id = dict(added)
    if isinstance(model_vocabulary, dict):
        by_id |= {index: token for token, index in model_vocabulary.items()}
    ids = [*_as_list(generation.get("eos_token_id")), *_as_list(raw.get("eos_token_id"))]
    special = set(added.values())
    ends = [_token_text(settings.get("eos_token")), *(by_id.get(index) for index in ids)]
    bos = _token_text(settings.get("bos_token"))
    template = settings.get("chat_template")
    if isinstance(template, list):  # several, by name
        named = {entry.get("name"): entry.get("template") for entry in template}
        template = named.get("default")
    if (path / "chat_template.jinja").is_file():
        template = (path / "chat_template.jinja").read_text(encoding="utf-8")
    return Tokenizer(
        text,
        eos_tokens=[
            *(token for token in ends if token is not None),
            *(token for token in END_TOKENS if token in special),
        ],
        bos_token=bos,
        # Declared, or done by the tokenizer's own post-processing, which names the token.
        add_bos=bool(settings.get("add_bos_token", bos is not None and _adds(described, bos))),
        chat_template=template,
    )


def _adds(described: dict[str, Any], token: str) -> bool:
    return json.dumps(token) in json.dumps(described.get("post_processor"))


def _as_list(value: int | list[int] | None) -> list[int]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _token_text(value: str | dict[str, Any] | None) -> str | None:
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _read_json(file: Path) -> dict[str, Any] | None:
    """The object in a JSON file, or None where there is no such file."""
    if not file.is_file():
        return None
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptModelError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CorruptModelError(f"{file} does not contain a JSON object")
    return value
