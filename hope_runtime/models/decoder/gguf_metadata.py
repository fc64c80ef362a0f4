"""Checks of what a GGUF file says of its architecture.

A key that changes what a model computes is read by config_gguf.py, or refused here by its name;
nothing that a file asks for is passed over in silence.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from hope_runtime.errors import UnsupportedModelError

# Read by config_gguf.py, or of no consequence to what is computed.
_READ = frozenset(
    {
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.layer_norm_rms_epsilon",
        "attention.sliding_window",
        "rope.dimension_count",
        "rope.freq_base",
    }
)
_OF_NO_CONSEQUENCE = frozenset(
    {
        # The layout of the tensors that a converter began with, and how many tokens it counted:
        # the tensors' own shapes decide.
        "tensor_data_layout",
        "vocab_size",
        # Of scaled positions only, which are refused.
        "rope.scaling.original_context_length",
        "rope.scaling.finetuned",
        "rope.scaling.yarn_ext_factor",
        "rope.scaling.yarn_attn_factor",
        "rope.scaling.yarn_beta_fast",
        "rope.scaling.yarn_beta_slow",
        "rope.scaling.yarn_log_multiplier",
        # Of a mixture of experts only, which is refused.
        "expert_used_count",
        "expert_feed_forward_length",
        "expert_shared_feed_forward_length",
        "expert_weights_scale",
        "expert_weights_norm",
        "expert_gating_func",
        # What embeddings of whole texts are made by.
        "pooling_type",
    }
)


def _is_off(value: Any) -> bool:
    return not value


def _is_one(value: Any) -> bool:
    # llama.cpp takes 0 for "not given".
    return value in (0, 1)


# Keys that change what is computed, unless they have a value that leaves it as it is.
_NEUTRAL: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "rope.scaling.type": ("scaled rotary positions", lambda value: value == "none"),
    # Without a type, llama.cpp takes these for linear scaling; the second is its older name.
    "rope.scaling.factor": ("scaled rotary positions", _is_one),
    "rope.scale_linear": ("scaled rotary positions", _is_one),
    "rope.scaling.attn_factor": ("scaled rotary positions", _is_one),
    "rope.scaling.alpha": ("scaled rotary positions", _is_off),
    "attention.causal": ("attention to what comes later", bool),
    "attention.clamp_kqv": ("clamped queries, keys and values", _is_off),
    "attention.max_alibi_bias": ("positions by biases of attention", _is_off),
    "attention.output_scale": ("a scale of attention's output", _is_one),
    "attention.temperature_scale": ("a temperature of attention", _is_off),
    "attention.shared_kv_layers": ("layers that share keys and values", _is_off),
    "attn_logit_softcapping": ("capped attention scores", _is_off),
    "final_logit_softcapping": ("capped logits", _is_off),
    "logit_scale": ("scaled logits", _is_one),
    "residual_scale": ("a scaled residual stream", _is_one),
    "embedding_scale": ("scaled embeddings", _is_one),
    "use_parallel_residual": ("a parallel residual stream", _is_off),
    "expert_count": ("a mixture of experts", _is_off),
    "expert_shared_count": ("a mixture of experts", _is_off),
    "nextn_predict_layers": ("layers that predict further tokens", _is_off),
}


def check_metadata(path: Path, metadata: Mapping[str, Any], reads: Collection[str] = ()) -> None:
    """Raise UnsupportedModelError for the first key of the architecture's whose meaning is not
    computed, by its name. `reads` are names that are read for its family beside those of all."""
    architecture = metadata["general.architecture"]
    for key, value in metadata.items():
        name = key.removeprefix(f"{architecture}.")
        if name == key or name in _READ or name in _OF_NO_CONSEQUENCE or name in reads:
            continue
        meaning, is_neutral = _NEUTRAL.get(name, ("something", lambda value: False))
        if name == "attention.scale":
            meaning, is_neutral = "a scale of attention", _is_default_scale(metadata)
        elif name == "attention.value_length":
            meaning = "values of another width than keys"
            is_neutral = partial(operator.eq, _head_width(metadata))
        if not is_neutral(value):
            raise UnsupportedModelError(
                f"{path} asks for {meaning} by {key} = {value!r}, which is not supported"
            )


def _head_width(metadata: Mapping[str, Any]) -> Any:
    of = metadata["general.architecture"]
    width = metadata.get(f"{of}.attention.key_length")
    if width is None:
        try:
            width = metadata[f"{of}.embedding_length"] // metadata[f"{of}.attention.head_count"]
        except (KeyError, TypeError, ZeroDivisionError):
            return None  # said where they are read
    return width


def _is_default_scale(metadata: Mapping[str, Any]) -> Callable[[Any], bool]:
    width = _head_width(metadata)

    def matches(value: Any) -> bool:
        if not isinstance(value, int | float) or not isinstance(width, int) or width < 1:
            return False
        return value == 0 or math.isclose(value, width**-0.5, rel_tol=1e-5)

    return matches
