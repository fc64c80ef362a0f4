"""The Llama family: Llama 2 and 3, SmolLM2 and Mistral.

Shape suffixes: V vocabulary, D model width, H query heads, G key/value heads, K head width,
F MLP width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from hope_runtime.errors import CorruptModelError, UnsupportedModelError
from hope_runtime.layers.config import ModelConfig, RopeScaling
from hope_runtime.models.decoder.family import Family, Progress, TensorSource
from hope_runtime.models.decoder.llama_metadata import check_metadata
from hope_runtime.models.decoder.weights import BaseWeights, from_named

_DEFAULT_THETA = 10_000.0


def config_from_json(raw: Mapping[str, Any], source: TensorSource) -> ModelConfig:
    """ModelConfig from config.json in its old and new spellings."""

    def refuse(feature: str) -> UnsupportedModelError:
        return UnsupportedModelError(f"{source.path} has {feature}, which is not supported")

    if raw.get("hidden_act", "silu") != "silu":
        raise refuse(f"the activation function {raw['hidden_act']!r}")
    if raw.get("mlp_bias"):
        raise refuse("biases in its MLPs")
    if raw.get("quantization_config"):
        raise refuse("quantised weights")
    try:
        H, D = raw["num_attention_heads"], raw["hidden_size"]
        max_positions = raw["max_position_embeddings"]
        # Attention sees the whole window, so a window wider than the sliding one is not served.
        if raw.get("model_type") == "mistral" and (window := raw.get("sliding_window")):
            max_positions = min(max_positions, window)
        theta, scaling = _rope_from_json(raw, refuse)
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
        raise CorruptModelError(
            f"{source.path}/config.json does not contain {error.args[0]}"
        ) from error
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise _unknown(source, error) from error


def _rope_from_json(
    raw: Mapping[str, Any], refuse: Callable[[str], UnsupportedModelError]
) -> tuple[float, RopeScaling | None]:
    # New spelling: rope_parameters holds all of it. Old: rope_theta, and rope_scaling or null.
    rope = {"rope_theta": raw.get("rope_theta", _DEFAULT_THETA)}
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


def config_from_gguf(metadata: Mapping[str, Any], source: TensorSource) -> ModelConfig:
    """ModelConfig from GGUF metadata and the shapes of the tensors."""
    path = source.path
    check_metadata(path, metadata)

    def get(key: str) -> Any:
        value = metadata.get(f"llama.{key}")
        if value is None:
            raise CorruptModelError(f"{path} does not contain the metadata llama.{key}")
        return value

    embedding = source.shape("token_embd.weight")
    if embedding is None:
        raise CorruptModelError(f"{path} does not contain the tensor token_embd.weight")
    try:
        D, H = get("embedding_length"), get("attention.head_count")
        K = metadata.get("llama.attention.key_length", D // H)
        if metadata.get("llama.rope.dimension_count", K) != K:
            raise UnsupportedModelError(
                f"{path} rotates only a part of each head, which is not supported"
            )
        max_positions = get("context_length")
        # Attention sees the whole window, so a window wider than the sliding one is not served.
        if window := metadata.get("llama.attention.sliding_window"):
            max_positions = min(max_positions, window)
        factors = None
        if source.shape("rope_freqs.weight") is not None:
            factors = tuple(source.take("rope_freqs.weight", (K // 2,)).tolist())
        return ModelConfig(
            vocab_size=embedding[0],
            d_model=D,
            n_layers=get("block_count"),
            n_heads=H,
            n_kv_heads=metadata.get("llama.attention.head_count_kv", H),
            head_dim=K,
            d_ff=get("feed_forward_length"),
            norm_eps=get("attention.layer_norm_rms_epsilon"),
            rope_theta=metadata.get("llama.rope.freq_base", _DEFAULT_THETA),
            max_positions=max_positions,
            tie_embeddings=source.shape("output.weight") is None,
            attention_bias=source.shape("blk.0.attn_q.bias") is not None,
            rope_factors=factors,
        )
    except (TypeError, ValueError, ArithmeticError) as error:
        raise _unknown(source, error) from error


def _unknown(source: TensorSource, error: Exception) -> UnsupportedModelError:
    return UnsupportedModelError(f"{source.path} describes an unsupported model: {error}")


def weights_from_safetensors(
    config: ModelConfig, source: TensorSource, progress: Progress
) -> BaseWeights:
    """Weights under Hugging Face's names, in their stored dtypes."""
    names = {
        "embedding": "model.embed_tokens.weight",
        "layer": "model.layers.{}.",
        "attn_norm": "input_layernorm.weight",
        "q": "self_attn.q_proj",
        "k": "self_attn.k_proj",
        "v": "self_attn.v_proj",
        "out": "self_attn.o_proj",
        "mlp_norm": "post_attention_layernorm.weight",
        "gate": "mlp.gate_proj.weight",
        "up": "mlp.up_proj.weight",
        "down": "mlp.down_proj.weight",
        "final_norm": "model.norm.weight",
        "lm_head": "lm_head.weight",
    }
    return _read_weights(config, source, progress, names, turned=lambda rows: rows)


def weights_from_gguf(config: ModelConfig, source: TensorSource, progress: Progress) -> BaseWeights:
    """Weights under llama.cpp's names, with its row order of queries and keys undone."""
    names = {
        "embedding": "token_embd.weight",
        "layer": "blk.{}.",
        "attn_norm": "attn_norm.weight",
        "q": "attn_q",
        "k": "attn_k",
        "v": "attn_v",
        "out": "attn_output",
        "mlp_norm": "ffn_norm.weight",
        "gate": "ffn_gate.weight",
        "up": "ffn_up.weight",
        "down": "ffn_down.weight",
        "final_norm": "output_norm.weight",
        "lm_head": "output.weight",
    }
    return _read_weights(
        config, source, progress, names, turned=lambda rows: _halves(rows, config.head_dim)
    )


def _read_weights(
    config: ModelConfig,
    source: TensorSource,
    progress: Progress,
    names: Mapping[str, str],
    turned: Callable[[Tensor], Tensor],
) -> BaseWeights:
    """The fused weights; `turned` puts the rows of queries and keys into the order of RotaryTable,
    which pairs the two halves of a head."""
    D, F, V = config.d_model, config.d_ff, config.vocab_size
    HK, GK = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    tensors = {"embedding": source.take(names["embedding"], (V, D))}
    for index in range(config.n_layers):
        progress(index / config.n_layers, f"reading layer {index + 1} of {config.n_layers}")
        old, new = names["layer"].format(index), f"layers.{index}."

        def take(name: str, *shape: int, kind: str = "", old: str = old) -> Tensor:
            return source.take(f"{old}{names[name]}{kind}", shape)

        def qkv(kind: str, *rest: int, take: Callable[..., Tensor] = take) -> Tensor:
            q, k = take("q", HK, *rest, kind=kind), take("k", GK, *rest, kind=kind)
            return torch.cat((turned(q), turned(k), take("v", GK, *rest, kind=kind)))

        tensors[f"{new}attn_norm"] = take("attn_norm", D)
        tensors[f"{new}qkv"] = qkv(".weight", D)
        tensors[f"{new}out"] = take("out", D, HK, kind=".weight")
        tensors[f"{new}mlp_norm"] = take("mlp_norm", D)
        tensors[f"{new}gate_up"] = torch.cat((take("gate", F, D), take("up", F, D)))
        tensors[f"{new}down"] = take("down", D, F)
        if config.attention_bias:
            tensors[f"{new}qkv_bias"] = qkv(".bias")
            tensors[f"{new}out_bias"] = take("out", D, kind=".bias")
    tensors["final_norm"] = source.take(names["final_norm"], (D,))
    if not config.tie_embeddings:
        tensors["lm_head"] = source.take(names["lm_head"], (V, D))
    return from_named(config, tensors)


def _halves(rows: Tensor, K: int) -> Tensor:
    """Rows of queries or keys, (n*K, ..), from llama.cpp's order, which pairs neighbours
    (2i, 2i+1), to ours, which pairs (i, i + K/2)."""
    rest = rows.shape[1:]
    return rows.reshape(-1, K // 2, 2, *rest).transpose(1, 2).reshape(-1, *rest)


LLAMA = Family(
    name="llama",
    model_types=("llama", "mistral"),
    gguf_architectures=("llama",),
    config_from_json=config_from_json,
    weights_from_safetensors=weights_from_safetensors,
    config_from_gguf=config_from_gguf,
    weights_from_gguf=weights_from_gguf,
)
