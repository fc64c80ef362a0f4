"""Metadata of a GGUF file and the shapes of its tensors -> ModelConfig.

What the file leaves unsaid is the family's (family.py), and what nothing here computes is refused
by its key (gguf_metadata.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hope_runtime.errors import CorruptModelError, UnsupportedModelError
from hope_runtime.layers.config import ModelConfig
from hope_runtime.models.decoder.config_json import sliding_layers, unrotated_layers
from hope_runtime.models.decoder.family import Family, TensorSource, check_counts
from hope_runtime.models.decoder.gguf_metadata import check_metadata
from hope_runtime.models.decoder.rope_json import DEFAULT_THETA, longrope


def config_from_gguf(
    family: Family, metadata: Mapping[str, Any], source: TensorSource
) -> ModelConfig:
    """ModelConfig from GGUF metadata. Raises CorruptModelError for a missing key and
    UnsupportedModelError for a feature that the decoder block lacks."""
    path, architecture = source.path, metadata["general.architecture"]
    check_metadata(path, metadata, family.gguf_reads)

    def get(key: str) -> Any:
        value = metadata.get(f"{architecture}.{key}")
        if value is None:
            raise CorruptModelError(f"{path} does not contain the metadata {architecture}.{key}")
        return value

    def find(key: str, default: Any = None) -> Any:
        return metadata.get(f"{architecture}.{key}", default)

    embedding = source.shape("token_embd.weight")
    if embedding is None:
        raise CorruptModelError(f"{path} does not contain the tensor token_embd.weight")
    try:
        D, H, L = get("embedding_length"), get("attention.head_count"), get("block_count")
        K = find("attention.key_length", D // H)
        check_counts(L, K)
        rope = _rope(family, find, source, K, get("context_length"))
        width, sliding = _sliding(family, find, L)
        if width >= rope["max_positions"]:
            width, sliding = 0, ()  # a window that holds every position is none
        if width and not sliding:
            # Attention would see the whole window, so no more than the sliding one is served.
            rope["max_positions"], width = width, 0
        if not sliding:
            rope.pop("sliding_theta", None)
        scale = find("attention.scale") or None
        if L in family.gguf_wide_scale_layers:
            scale = (D / H) ** -0.5
        biased = _first_layer_has(source, ("attn_q.bias", "attn_qkv.bias"))
        biased_output = _first_layer_has(source, ("attn_output.bias",))
        fields = {
            "vocab_size": embedding[0],
            "d_model": D,
            "n_layers": L,
            "n_heads": H,
            "n_kv_heads": find("attention.head_count_kv", H),
            "head_dim": K,
            "d_ff": get("feed_forward_length"),
            "norm_eps": get("attention.layer_norm_rms_epsilon"),
            "tie_embeddings": source.shape("output.weight") is None,
            "attention_bias": biased and biased_output,
            "qkv_bias": biased and not biased_output,
            "attention_scale": None if scale is None or _close(scale, K**-0.5) else scale,
            "embedding_scale": D**0.5
            if family.scales_embedding
            else find("embedding_scale") or 1.0,
            "residual_scale": find("residual_scale") or 1.0,
            "logits_divisor": find("logit_scale") or 1.0,
            "attention_softcap": find("attn_logit_softcapping") or 0.0,
            "logits_softcap": find("final_logit_softcapping") or 0.0,
            "sliding_window": width,
            "sliding_layers": sliding,
            "unrotated_layers": unrotated_layers(family.unrotated_every, L),
        }
        return ModelConfig(**{**family.traits, **rope, **fields})
    except (TypeError, ValueError, ArithmeticError) as error:
        raise UnsupportedModelError(f"{path} describes an unsupported model: {error}") from error


def _rope(
    family: Family, find: Any, source: TensorSource, K: int, positions: int
) -> dict[str, Any]:
    """Fields of ModelConfig about positions."""
    fields: dict[str, Any] = {
        "rope_theta": find("rope.freq_base", DEFAULT_THETA),
        "max_positions": positions,
    }
    local = find("rope.freq_base_swa", family.json_defaults.get("rope_local_base_freq"))
    if local is not None:
        fields["sliding_theta"] = local
    rotated = find("rope.dimension_count", K)
    if rotated != K:
        if not family.partial_rotary:
            raise UnsupportedModelError(
                f"{source.path} rotates only a part of each head, which is not supported"
            )
        fields["rotary_dim"] = rotated
    pairs = (rotated // 2,)
    if source.shape("rope_freqs.weight") is not None:
        fields["rope_factors"] = tuple(source.take("rope_freqs.weight", pairs).tolist())
    elif source.shape("rope_factors_short.weight") is not None:
        fields |= longrope(
            source.take("rope_factors_short.weight", pairs).tolist(),
            positions,
            find("rope.scaling.original_context_length"),
            {"attention_factor": find("rope.scaling.attn_factor", 1.0)},
        )
    elif find("rope.scaling.type") == "linear":
        fields["rope_factors"] = (float(find("rope.scaling.factor")),) * pairs[0]
    return fields


def _sliding(family: Family, find: Any, L: int) -> tuple[int, tuple[int, ...]]:
    """Width of sliding attention, 0 without, and the layers that have it."""
    width = find("attention.sliding_window") or 0
    pattern = find("attention.sliding_window_pattern", family.full_attention_every)
    if not width or pattern is None:
        return width, ()
    if isinstance(pattern, list):
        return width, tuple(index for index in range(L) if pattern[index])
    return width, sliding_layers(pattern, L)


def _first_layer_has(source: TensorSource, names: tuple[str, ...]) -> bool:
    return any(source.shape(f"blk.0.{name}") is not None for name in names)


def _close(one: float, other: float) -> bool:
    return abs(one - other) <= 1e-5 * abs(other)
