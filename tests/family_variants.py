"""Random two-layer models of every family, made by `transformers`, with the family's quirks on."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

VOCAB = 264
# Narrower than the texts that tests read.
WINDOW = 7
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    # Large enough that every part of the model matters.
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}


@dataclass(frozen=True)
class Variant:
    """A model to make: `kind` is the stem of its classes in `transformers`."""

    kind: str
    overrides: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join([self.kind, *self.overrides])

    def make(self, seed: int = 0) -> Any:
        import transformers
        from transformers import AutoModelForCausalLM

        torch.manual_seed(seed)
        name = "Gemma3Text" if self.kind == "Gemma3" else self.kind
        config = getattr(transformers, f"{name}Config")(**copy.deepcopy(SIZES | self.overrides))
        model = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name or "bias" in name:  # at their start these are ones and zeros
                    parameter.add_(0.3 * torch.randn_like(parameter))
        return model


GEMMA: dict[str, Any] = {
    "head_dim": 12,
    "query_pre_attn_scalar": 20,
    "sliding_window": WINDOW,
    "tie_word_embeddings": True,
}
LAYERS = ["sliding_attention", "full_attention"]
SCALED = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e5, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e3},
}
YARN = {
    "full_attention": {
        "rope_type": "yarn",
        "rope_theta": 1e4,
        "factor": 8.0,
        "original_max_position_embeddings": 32,
        "beta_fast": 4.0,
    },
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
# Of heads of 16 the first 12 are rotated: six pairs.
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "partial_rotary_factor": 0.75,
    "short_factor": [1.0, 1.1, 1.3, 1.7, 2.0, 3.0],
    "long_factor": [1.0, 2.0, 4.0, 8.0, 16.0, 32.0],
    "original_max_position_embeddings": 128,
}
LONG = {
    "hidden_size": 64,
    "rope_parameters": LONGROPE,
    "original_max_position_embeddings": 128,
}
VARIANTS = [
    Variant("Qwen2", {"tie_word_embeddings": True}),
    Variant("Qwen2", {"num_key_value_heads": 4, "tie_word_embeddings": False}),
    Variant(
        "Qwen2", {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}
    ),
    Variant("Qwen3", {"head_dim": 24}),
    Variant("Qwen3", {"head_dim": 10, "tie_word_embeddings": True, "attention_bias": True}),
    Variant("Mistral", {"sliding_window": WINDOW, "head_dim": 12}),
    Variant("Mistral", {"sliding_window": None}),
    Variant("SmolLM3", {"no_rope_layer_interval": 2, "attention_bias": True}),
    Variant("SmolLM3", {"no_rope_layers": [0, 1], "tie_word_embeddings": False, "head_dim": 12}),
    Variant(
        "Granite",
        {
            "embedding_multiplier": 12.0,
            "attention_multiplier": 0.2,
            "residual_multiplier": 0.6,
            "logits_scaling": 2.0,
        },
    ),
    Variant("Gemma2", GEMMA | {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0}),
    Variant("Gemma3", GEMMA | {"sliding_window_pattern": 2}),
    Variant("Gemma3", GEMMA | {"rope_parameters": SCALED, "tie_word_embeddings": False}),
    Variant("Phi3", {"sliding_window": WINDOW}),
    Variant("Phi3", LONG | {"num_key_value_heads": 4}),
    Variant("Olmo2", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    Variant("Olmo2", {"num_key_value_heads": 4, "attention_bias": True}),
    Variant("Olmo3", {"sliding_window": WINDOW, "layer_types": LAYERS, "rope_parameters": YARN}),
    Variant(
        "Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}
    ),
]


def saved(model: Any, directory: Path, tokenizer_json: str) -> Path:
    """The model as a directory in Hugging Face's layout."""
    model.save_pretrained(directory)
    (directory / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    return directory
