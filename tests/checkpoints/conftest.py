"""Small GGUF files made to order, and transformers' own reading of the default model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf_files import GGUFSpec, interleaved, metadata_of

from hope_runtime.checkpoints import find_source

_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@pytest.fixture(scope="session")
def gguf_spec() -> Callable[[Any], GGUFSpec]:
    """transformers' Llama -> the GGUF file that holds the same model."""

    def make(reference: Any) -> GGUFSpec:
        config, weights = reference.config, reference.state_dict()
        H, G = config.num_attention_heads, config.num_key_value_heads
        tensors = {
            "token_embd.weight": weights["model.embed_tokens.weight"],
            "output_norm.weight": weights["model.norm.weight"],
        }
        if not config.tie_word_embeddings:
            tensors["output.weight"] = weights["lm_head.weight"]
        for name, tensor in weights.items():
            if not name.startswith("model.layers."):
                continue
            _, _, index, *inner, kind = name.split(".")
            module = ".".join(inner)
            if module in ("self_attn.q_proj", "self_attn.k_proj"):
                letter, heads = ("q", H) if "q_proj" in module else ("k", G)
                tensors[f"blk.{index}.attn_{letter}.{kind}"] = interleaved(tensor, heads)
            else:
                tensors[f"blk.{index}.{_LAYER[module]}.{kind}"] = tensor
        return GGUFSpec(
            {name: tensor.numpy().copy() for name, tensor in tensors.items()},
            metadata_of(config, "llama")
            | {"llama.rope.freq_base": float(config.rope_parameters["rope_theta"])},
        )

    return make


@pytest.fixture(scope="session")
def default_file() -> Path:
    """The GGUF file inside the installed package of the default model."""
    return find_source("default")


@pytest.fixture(scope="session")
def reference(default_file: Path) -> Any:
    """The default model as transformers reads it from the GGUF file, in float32."""
    import transformers.modeling_utils
    from transformers import LlamaForCausalLM

    with pytest.MonkeyPatch.context() as patch:
        # transformers refuses GGUF files without accelerate, of which this path uses nothing.
        patch.setattr(transformers.modeling_utils, "is_accelerate_available", lambda: True)
        return LlamaForCausalLM.from_pretrained(
            default_file.parent, gguf_file=default_file.name, dtype=torch.float32
        ).eval()


@pytest.fixture(scope="session")
def reference_tokenizer(default_file: Path) -> Any:
    """The default model's tokenizer as transformers reads it from the GGUF file."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(default_file.parent, gguf_file=default_file.name)
