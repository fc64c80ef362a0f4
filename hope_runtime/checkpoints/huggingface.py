"""Directories in Hugging Face's layout -> configuration, weights and tokenizer.

Knows config.json in its old and new spellings, safetensors whole or sharded, and the files beside
tokenizer.json; needs no transformers. Leaves fetching from the hub to __init__.py and storing to
native.py.

Shape suffixes: D model width, H heads, K head width, F mlp width, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Callable
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
from hope_runtime.layers.config import ModelConfig, RopeScaling
from hope_runtime.models.decoder.weights import BaseWeights, from_named
from hope_runtime.tokenizer import Tokenizer

Progress = Callable[[float, str], None]

_ARCHITECTURES = ("llama", "mistral")


def read_huggingface(path: Path, progress: Progress) -> tuple[ModelConfig, BaseWeights, Tokenizer]:
    """Read a directory with config.json, *.safetensors and tokenizer.json; dtypes as stored.

    Raises ModelNotFoundError, CorruptModelError (truncated; a tensor missing or misshapen),
    UnsupportedModelError (architecture), TokenizerMissingError.
    """
    raw = _read_json(path / "config.json")
    if raw is None:
        raise ModelNotFoundError(f"{path} does not contain config.json")
    config = _read_config(path, raw)
    tokenizer = _read_tokenizer(path, raw)
    with ExitStack() as stack:
        source = _Source(path, stack)
        return config, _read_weights(config, source, progress), tokenizer


class _Source:
    """The tensors of a directory by name, whichever file holds them; checked as they are taken."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path = path
        index = _read_json(path / "model.safetensors.index.json")
        names = (
            sorted(set(index.get("weight_map", {}).values())) if index else ["model.safetensors"]
        )
        self._files: dict[str, Any] = {}
        for name in names:
            file = path / name
            if file.parent != path or not file.is_file():
                raise ModelNotFoundError(f"{path} does not contain {name}")
            try:
                opened = stack.enter_context(safetensors.safe_open(file, framework="pt"))
            except (safetensors.SafetensorError, OSError) as error:
                raise CorruptModelError(f"{file} cannot be read: {error}") from error
            self._files |= dict.fromkeys(opened.keys(), opened)

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
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


def _read_config(path: Path, raw: dict[str, Any]) -> ModelConfig:
    kind = raw.get("model_type")
    if kind not in _ARCHITECTURES:
        raise UnsupportedModelError(
            f"{path} is a model of type {kind!r}; only {' and '.join(_ARCHITECTURES)} are supported"
        )

    def refuse(what: str) -> UnsupportedModelError:
        return UnsupportedModelError(f"{path} has {what}, which is not supported")

    if raw.get("hidden_act", "silu") != "silu":
        raise refuse(f"the activation function {raw['hidden_act']!r}")
    if raw.get("mlp_bias"):
        raise refuse("biases in its MLPs")
    if raw.get("quantization_config"):
        raise refuse("quantised weights")
    try:
        H, D = raw["num_attention_heads"], raw["hidden_size"]
        max_positions = raw["max_position_embeddings"]
        # Attention in this code sees the whole window, so a narrower one must not be needed.
        if kind == "mistral" and (window := raw.get("sliding_window")):
            max_positions = min(max_positions, window)
        theta, scaling = _read_rope(raw, refuse)
        return ModelConfig(
            vocab_size=raw["vocab_size"],
            d_model=D,
            n_layers=raw["num_hidden_layers"],
            n_heads=H,
            n_kv_heads=raw.get("num_key_value_heads") or H,
            head_dim=raw.get("head_dim") or D // H,
            d_ff=raw["intermediate_size"],
            norm_eps=raw.get("rms_norm_eps", 1e-6),
            rope_theta=theta,
            max_positions=max_positions,
            tie_embeddings=raw.get("tie_word_embeddings", False),
            rope_scaling=scaling,
            attention_bias=bool(raw.get("attention_bias", False)),
        )
    except KeyError as error:
        raise CorruptModelError(f"{path}/config.json does not contain {error.args[0]}") from error
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UnsupportedModelError(f"{path} describes an unsupported model: {error}") from error


def _read_rope(
    raw: dict[str, Any], refuse: Callable[[str], UnsupportedModelError]
) -> tuple[float, RopeScaling | None]:
    # New: rope_parameters holds all of it. Old: rope_theta, and rope_scaling or null beside it.
    rope = {"rope_theta": raw.get("rope_theta", 10_000.0)}
    rope |= raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if rope.get("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0)) != 1.0:
        raise refuse("rotary positions on only a part of each head")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return float(rope["rope_theta"]), None
    if kind != "llama3":
        raise refuse(f"rotary scaling of type {kind!r}")
    return float(rope["rope_theta"]), RopeScaling(
        factor=rope["factor"],
        low_freq_factor=rope["low_freq_factor"],
        high_freq_factor=rope["high_freq_factor"],
        original_max_positions=rope["original_max_position_embeddings"],
    )


def _read_weights(config: ModelConfig, source: _Source, progress: Progress) -> BaseWeights:
    D, F, V = config.d_model, config.d_ff, config.vocab_size
    HK, GK = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    tensors = {"embedding": source.take("model.embed_tokens.weight", (V, D))}
    for index in range(config.n_layers):
        progress(index / config.n_layers, f"reading layer {index + 1} of {config.n_layers}")
        old, new = f"model.layers.{index}.", f"layers.{index}."
        take, attention, mlp = source.take, f"{old}self_attn.", f"{old}mlp."

        def qkv(kind: str, rest: tuple[int, ...], attention: str = attention) -> Tensor:
            rows = {"q": HK, "k": GK, "v": GK}
            return torch.cat(
                [source.take(f"{attention}{x}_proj.{kind}", (n, *rest)) for x, n in rows.items()]
            )

        tensors[f"{new}attn_norm"] = take(f"{old}input_layernorm.weight", (D,))
        tensors[f"{new}qkv"] = qkv("weight", (D,))
        tensors[f"{new}out"] = take(f"{attention}o_proj.weight", (D, HK))
        tensors[f"{new}mlp_norm"] = take(f"{old}post_attention_layernorm.weight", (D,))
        gate, up = (take(f"{mlp}{name}_proj.weight", (F, D)) for name in ("gate", "up"))
        tensors[f"{new}gate_up"] = torch.cat((gate, up))
        tensors[f"{new}down"] = take(f"{mlp}down_proj.weight", (D, F))
        if config.attention_bias:
            tensors[f"{new}qkv_bias"] = qkv("bias", ())
            tensors[f"{new}out_bias"] = take(f"{attention}o_proj.bias", (D,))
    tensors["final_norm"] = source.take("model.norm.weight", (D,))
    if not config.tie_embeddings:
        tensors["lm_head"] = source.take("lm_head.weight", (V, D))
    return from_named(config, tensors)


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
