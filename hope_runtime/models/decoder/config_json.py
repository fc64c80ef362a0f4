"""config.json of a Hugging Face directory -> ModelConfig, in its old and new spellings.

What the file leaves unsaid is the family's (family.py); rotary positions are read by rope_json.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hope_runtime.errors import CorruptModelError, UnsupportedModelError
from hope_runtime.layers.config import ModelConfig
from hope_runtime.models.decoder.family import Family, TensorSource, check_counts
from hope_runtime.models.decoder.rope_json import rope_from_json

Refuse = Callable[[str], UnsupportedModelError]

_ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}


def config_from_json(family: Family, raw: Mapping[str, Any], source: TensorSource) -> ModelConfig:
    """ModelConfig from a parsed config.json. Raises CorruptModelError for a missing key and
    UnsupportedModelError for a feature that the decoder block lacks."""

    def refuse(feature: str) -> UnsupportedModelError:
        return UnsupportedModelError(f"{source.path} has {feature}, which is not supported")

    if raw.get("quantization_config"):
        raise refuse("quantised weights")
    # Models that see too hold the text model's configuration in one of their own.
    raw = {**family.json_defaults, **(raw.get("text_config") or raw)}
    activation = raw.get("hidden_activation") or raw.get("hidden_act", "silu")
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        raise refuse(f"the activation function {activation!r}")
    if raw.get("mlp_bias"):
        raise refuse("biases in its MLPs")
    if raw.get("use_bidirectional_attention"):
        raise refuse("attention to what comes later")
    try:
        H, D, L = raw["num_attention_heads"], raw["hidden_size"], raw["num_hidden_layers"]
        K = raw.get("head_dim") or D // H
        check_counts(L, K)
        rope = rope_from_json(family, raw, K, refuse)
        width, sliding = _sliding(family, raw, L, rope["max_positions"], refuse)
        if not sliding:
            rope.pop("sliding_theta", None)
        scale = raw.get("attention_multiplier")
        if scale is None and "query_pre_attn_scalar" in raw:
            scale = raw["query_pre_attn_scalar"] ** -0.5
        fields = {
            "vocab_size": raw["vocab_size"],
            "d_model": D,
            "n_layers": L,
            "n_heads": H,
            "n_kv_heads": raw.get("num_key_value_heads") or H,
            "head_dim": K,
            "d_ff": raw["intermediate_size"],
            "norm_eps": raw.get("rms_norm_eps", 1e-6),
            "tie_embeddings": bool(raw.get("tie_word_embeddings", False)),
            "attention_bias": bool(raw.get("attention_bias", False)),
            "activation": _ACTIVATIONS[activation],
            "attention_scale": None if scale == K**-0.5 else scale,
            "embedding_scale": D**0.5
            if family.scales_embedding
            else raw.get("embedding_multiplier", 1.0),
            "residual_scale": raw.get("residual_multiplier", 1.0),
            "logits_divisor": raw.get("logits_scaling", 1.0),
            "attention_softcap": raw.get("attn_logit_softcapping") or 0.0,
            "logits_softcap": raw.get("final_logit_softcapping") or 0.0,
            "sliding_window": width,
            "sliding_layers": sliding,
            "unrotated_layers": _unrotated(family, raw, L),
        }
        return ModelConfig(**{**family.traits, **rope, **fields})
    except KeyError as error:
        raise CorruptModelError(
            f"{source.path}/config.json does not contain {error.args[0]}"
        ) from error
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UnsupportedModelError(
            f"{source.path} describes an unsupported model: {error}"
        ) from error


def _sliding(
    family: Family, raw: Mapping[str, Any], L: int, max_positions: int, refuse: Refuse
) -> tuple[int, tuple[int, ...]]:
    """Width of sliding attention and the layers that have it; 0 and none where nothing slides."""
    kinds = raw.get("layer_types")
    for kind in kinds or ():
        if kind not in ("full_attention", "sliding_attention"):
            raise refuse(f"layers of the type {kind!r}")
    width = raw.get("sliding_window") or 0
    every = family.full_attention_every
    if every is None or not width or not raw.get("use_sliding_window", True):
        return 0, ()
    if kinds:
        layers = tuple(index for index in range(L) if kinds[index] == "sliding_attention")
    else:
        # Qwen counts the layers below, which do not slide.
        layers = sliding_layers(every, L, start=raw.get("max_window_layers", 0))
    # A window that holds every position is none.
    return (width, layers) if layers and width < max_positions else (0, ())


def sliding_layers(every: int, L: int, start: int = 0) -> tuple[int, ...]:
    """Layers from `start` on that slide, where every n-th does not; 0 is all of them."""
    return tuple(index for index in range(start, L) if not every or (index + 1) % every)


def unrotated_layers(every: int, L: int) -> tuple[int, ...]:
    """Every n-th layer; none for 0."""
    return tuple(range(every - 1, L, every)) if every else ()


def _unrotated(family: Family, raw: Mapping[str, Any], L: int) -> tuple[int, ...]:
    if not family.unrotated_every:
        return ()
    flags = raw.get("no_rope_layers")
    if flags is None:
        return unrotated_layers(raw.get("no_rope_layer_interval", family.unrotated_every), L)
    return tuple(index for index in range(L) if not flags[index])
