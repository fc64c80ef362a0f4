"""Base weights as vLLM reads them: a directory in Hugging Face's layout, written once.

The exact inverse of what checkpoints/huggingface.py does to names and fused matrices. Without a
tokenizer: token ids go in and come out.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from hope_runtime.checkpoints import cache_root
from hope_runtime.errors import ModelError, UnsupportedModelError
from hope_runtime.layers.config import ModelConfig
from hope_runtime.models.decoder.weights import BaseModel

# Raised when what is written changes.
VERSION = 2

# Architectures by name: the fields beyond Llama's that their blocks have, and those among them that
# config.json states, by its keys.
_ARCHITECTURES: tuple[tuple[str, frozenset[str], Mapping[str, str]], ...] = (
    ("Llama", frozenset(), {}),
    (
        "Mistral",
        frozenset({"sliding_window", "sliding_layers"}),
        {"sliding_window": "sliding_window"},
    ),
    ("Qwen2", frozenset({"qkv_bias"}), {}),
    ("Qwen3", frozenset({"qk_norm"}), {}),
    (
        "Granite",
        frozenset({"attention_scale", "embedding_scale", "residual_scale", "logits_divisor"}),
        {
            "attention_multiplier": "attention_scale",
            "embedding_multiplier": "embedding_scale",
            "residual_multiplier": "residual_scale",
            "logits_scaling": "logits_divisor",
        },
    ),
)


def exported(model: BaseModel, cache_dir: str | Path | None = None) -> Path:
    """The directory of this model in its present precision, which is written if it is not there.

    It appears whole, by one rename. Raises UnsupportedModelError for what the layout cannot say,
    ModelError when it cannot be written.
    """
    config = _config(model.config, model.dtype)
    kind = str(model.dtype).removeprefix("torch.")
    # The fingerprint leaves out what a memory does not depend on, such as how far layers see.
    stated = hashlib.sha256(json.dumps(config).encode()).hexdigest()[:8]
    name = f"{model.fingerprint[:16]}-{kind}-{stated}-{VERSION}"
    directory = cache_root(cache_dir) / "vllm" / name
    if directory.is_dir():
        return directory
    building = directory.with_name(f".{directory.name}-{secrets.token_hex(6)}")
    try:
        building.mkdir(parents=True)
        tensors = {name: tensor.contiguous() for name, tensor in _named(model)}
        weights = building / "model.safetensors"
        safetensors.torch.save_file(tensors, weights, metadata={"format": "pt"})
        (building / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
        for file in building.iterdir():
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        try:
            building.rename(directory)
        except OSError:  # another server was faster
            if not directory.is_dir():
                raise
    except OSError as error:
        raise ModelError(
            f"cannot store the model for vLLM in {directory.parent} ({error.strerror}); choose "
            "another directory with HOPE_CACHE_DIR"
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return directory


def _config(config: ModelConfig, dtype: torch.dtype) -> dict[str, Any]:
    if config.rope_factors is not None:
        raise UnsupportedModelError(
            "vLLM is not given rotary frequencies with a divisor for each, as GGUF files of Llama "
            "3.1 have them, and linear, yarn and longrope scaling; use --engine torch"
        )
    layout = _layout(config)
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if (scaling := config.rope_scaling) is not None:
        rope |= {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_positions,
        }
    return {
        **layout,
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": rope,
        # One more than the model knows: vLLM counts the token that is written last, which is
        # never read.
        "max_position_embeddings": config.max_positions + 1,
        "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": config.attention_bias,
        "mlp_bias": False,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }


def _layout(config: ModelConfig) -> dict[str, Any]:
    """The architecture whose block this is, with the keys that only it has.

    Raises UnsupportedModelError for a block that none of these is.
    """
    own = set(config.later_fields())
    all_slide = len(config.sliding_layers) in (0, config.n_layers)
    if config.qk_norm == "head" and config.attention_bias:
        raise UnsupportedModelError(
            "vLLM drops the biases of attention's output, which this Qwen3 model has; use --engine "
            "torch"
        )
    for name, fields, keys in _ARCHITECTURES:
        # Qwen3 norms each head; others would norm all of them together.
        heads_normed = "qk_norm" not in fields or config.qk_norm == "head"
        if own <= fields and heads_normed and all_slide:
            found = {key: getattr(config, field) for key, field in keys.items()}
            if name == "Granite" and config.attention_scale is None:
                found["attention_multiplier"] = config.head_dim**-0.5
            return {"architectures": [f"{name}ForCausalLM"], "model_type": name.lower(), **found}
    raise UnsupportedModelError(
        "the vLLM engine serves Llama, Mistral, Qwen2, Qwen3 and Granite models only, and this one "
        "has "
        f"{', '.join(sorted(own))}; use --engine torch"
    )


def _named(model: BaseModel) -> Iterator[tuple[str, Tensor]]:
    config, weights = model.config, model.weights
    queries, keys = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    yield "model.embed_tokens.weight", weights.embedding
    for index, layer in enumerate(weights.layers):
        at = f"model.layers.{index}"
        assert layer.attn_norm is not None
        assert layer.mlp_norm is not None
        yield f"{at}.input_layernorm.weight", layer.attn_norm
        yield f"{at}.post_attention_layernorm.weight", layer.mlp_norm
        projections = ("q_proj", "k_proj", "v_proj")
        for name, part in zip(
            projections, layer.qkv.split_with_sizes((queries, keys, keys)), strict=True
        ):
            yield f"{at}.self_attn.{name}.weight", part
        yield f"{at}.self_attn.o_proj.weight", layer.out
        for name, norm in (("q_norm", layer.q_norm), ("k_norm", layer.k_norm)):
            if norm is not None:
                yield f"{at}.self_attn.{name}.weight", norm
        if layer.qkv_bias is not None:
            biases = layer.qkv_bias.split_with_sizes((queries, keys, keys))
            for name, part in zip(projections, biases, strict=True):
                yield f"{at}.self_attn.{name}.bias", part
        if layer.out_bias is not None:
            yield f"{at}.self_attn.o_proj.bias", layer.out_bias
        gate, up = layer.gate_up.chunk(2)
        yield f"{at}.mlp.gate_proj.weight", gate
        yield f"{at}.mlp.up_proj.weight", up
        yield f"{at}.mlp.down_proj.weight", layer.down
    yield "model.norm.weight", weights.final_norm
    if weights.lm_head is not weights.embedding:
        yield "lm_head.weight", weights.lm_head
