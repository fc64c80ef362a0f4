"""Registry of decoder families by the architecture names of their checkpoints.

A new family is one entry in FAMILIES. Fields that it needs in ModelConfig get a default that means
today's models, so that fingerprints stay what they are (see ModelConfig.to_fields).
"""

from __future__ import annotations

from pathlib import Path

from hope_runtime.errors import UnsupportedModelError
from hope_runtime.models.decoder.family import Family

_GEMMA_JSON = {
    "hidden_act": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "head_dim": 256,
    "sliding_window": 4096,
    "query_pre_attn_scalar": 256,
}
_GEMMA_TRAITS = {"norms": "both", "activation": "gelu_tanh"}

FAMILIES: tuple[Family, ...] = (
    Family(
        name="llama",
        title="Llama 2 and 3, SmolLM2",
        model_types=("llama",),
        gguf_architectures=("llama",),
        gguf_neighbours=True,
    ),
    Family(
        name="qwen2",
        title="Qwen2, Qwen2.5",
        model_types=("qwen2",),
        gguf_architectures=("qwen2",),
        traits={"qkv_bias": True},
        json_defaults={"use_sliding_window": False},
        full_attention_every=0,
    ),
    Family(
        name="qwen3",
        title="Qwen3",
        model_types=("qwen3",),
        gguf_architectures=("qwen3",),
        traits={"qk_norm": "head"},
        json_defaults={"use_sliding_window": False, "head_dim": 128},
        full_attention_every=0,
    ),
    Family(
        name="mistral",
        title="Mistral, Ministral 8B",
        model_types=("mistral", "ministral"),
        json_defaults={"sliding_window": 4096},
        full_attention_every=0,
    ),
    Family(
        name="smollm3",
        title="SmolLM3",
        model_types=("smollm3",),
        gguf_architectures=("smollm3",),
        json_defaults={
            "rope_theta": 2_000_000.0,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
        },
        full_attention_every=0,
        unrotated_every=4,
        gguf_neighbours=True,
    ),
    Family(
        name="granite",
        title="Granite 3",
        model_types=("granite",),
        gguf_architectures=("granite",),
        gguf_neighbours=True,
        gguf_reads=frozenset(
            {"attention.scale", "embedding_scale", "residual_scale", "logit_scale"}
        ),
    ),
    Family(
        name="gemma2",
        title="Gemma 2",
        model_types=("gemma2",),
        gguf_architectures=("gemma2",),
        traits=_GEMMA_TRAITS,
        json_defaults={
            **_GEMMA_JSON,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
        norm_offset=1.0,
        scales_embedding=True,
        full_attention_every=2,
        gguf_wide_scale_layers=frozenset({46}),
        gguf_reads=frozenset({"attn_logit_softcapping", "final_logit_softcapping"}),
    ),
    Family(
        name="gemma3",
        title="Gemma 3 (text)",
        model_types=("gemma3_text", "gemma3"),
        gguf_architectures=("gemma3",),
        traits={**_GEMMA_TRAITS, "qk_norm": "head"},
        json_defaults={
            **_GEMMA_JSON,
            "vocab_size": 262_208,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "max_position_embeddings": 131_072,
            "rope_theta": 1_000_000.0,
            "rope_local_base_freq": 10_000.0,
        },
        norm_offset=1.0,
        scales_embedding=True,
        full_attention_every=6,
        gguf_wide_scale_layers=frozenset({62}),
        gguf_reads=frozenset(
            {
                "attention.sliding_window_pattern",
                "final_logit_softcapping",
                "rope.freq_base_swa",
                "rope.scaling.factor",
                "rope.scaling.type",
            }
        ),
    ),
    Family(
        name="phi3",
        title="Phi-3, Phi-3.5, Phi-4, Phi-4-mini",
        model_types=("phi3",),
        gguf_architectures=("phi3",),
        fused=True,
        partial_rotary=True,
        full_attention_every=0,
        gguf_reads=frozenset({"rope.scaling.attn_factor"}),
    ),
    Family(
        name="olmo2",
        title="OLMo 2",
        model_types=("olmo2",),
        gguf_architectures=("olmo2",),
        traits={"qk_norm": "full", "norms": "after"},
    ),
    Family(
        name="olmo3",
        title="OLMo 3",
        model_types=("olmo3",),
        traits={"qk_norm": "full", "norms": "after"},
        json_defaults={"sliding_window": 4096, "rope_theta": 500_000.0},
        full_attention_every=4,
    ),
)


def family_of_model_type(path: Path, model_type: object) -> Family:
    """Family of a directory whose config.json has this "model_type".

    Raises UnsupportedModelError, which names the known ones.
    """
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    known = _listed([name for family in FAMILIES for name in family.model_types])
    raise UnsupportedModelError(f"{path} is a model of type {model_type!r}; only {known} supported")


def family_of_gguf(path: Path, architecture: object) -> Family:
    """Family of a GGUF file with this "general.architecture".

    Raises UnsupportedModelError, which names the known ones.
    """
    for family in FAMILIES:
        if architecture in family.gguf_architectures:
            return family
    known = _listed([name for family in FAMILIES for name in family.gguf_architectures])
    raise UnsupportedModelError(
        f"{path} has the architecture {architecture!r}; only {known} supported"
    )


def _listed(names: list[str]) -> str:
    """ "a is", "a and b are", "a, b and c are"."""
    if len(names) == 1:
        return f"{names[0]} is"
    return f"{', '.join(names[:-1])} and {names[-1]} are"
