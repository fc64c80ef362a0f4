"""Directories in Hugging Face's layout -> configuration, weights and tokenizer.

Knows config.json in its old and new spellings, and safetensors whole or sharded; needs no
transformers. Leaves the tokenizer to huggingface_tokenizer.py, fetching from the hub to __init__.py
and storing to native.py.

Shape suffixes: D model width, H heads, K head width, F mlp width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
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
    raw = read_json(path / "config.json")
    if raw is None:
        files = ", ".join(sorted(file.name for file in path.glob("*.gguf")))
        hint = f"; name one of its files: {files}" if files else ""
        raise ModelNotFoundError(f"{path} does not contain config.json{hint}")
    config = _read_config(path, raw)
    tokenizer = read_tokenizer(path, raw)
    with ExitStack() as stack:
        source = _Source(path, stack)
        return config, _read_weights(config, source, progress), tokenizer


class _Source:
    """The tensors of a directory by name, whichever file holds them; checked as they are taken."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path = path
        index = read_json(path / "model.safetensors.index.json")
        names = (
            sorted(set(index.get("weight_map", {}).values())) if index else ["model.safetensors"]
        )
        self._files: dict[str, Any] = {}
        for name in names:
            file = path / name
            if file.parent != path or not file.is_file():
                raise ModelNotFoundError(f"{path} does not contain {name}")
            refuse_pointer(file)
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
            tie_embeddings=bool(raw.get("tie_word_embeddings", False)),
            rope_scaling=scaling,
            attention_bias=bool(raw.get("attention_bias", False)),
        )
    except KeyError as error:
        raise CorruptModelError(f"{path}/config.json does not contain {error.args[0]}") from error
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
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
        if rope.get("factor") not in (None, 1, 1.0):
            raise refuse(f"rotary scaling by {rope['factor']!r} without its type")
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
