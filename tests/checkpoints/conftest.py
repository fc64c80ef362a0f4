"""Small GGUF files made to order, and transformers' own reading of the default model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from hope_runtime.checkpoints import find_source
from hope_runtime.token_bytes import byte_alphabet

WORDS = ["<|endoftext|>", "<|im_end|>", "<think>", *byte_alphabet(), "he", "ll", "hell"]


@dataclass
class GGUFSpec:
    """What goes into a file; tests change one thing and write it."""

    tensors: dict[str, np.ndarray]
    metadata: dict[str, Any]
    architecture: str = "llama"
    quantised: dict[str, gguf.GGMLQuantizationType] = field(default_factory=dict)

    def write(self, path: Path) -> Path:
        writer = gguf.GGUFWriter(path, self.architecture)
        for key, value in self.metadata.items():
            if isinstance(value, bool):
                writer.add_bool(key, value)
            elif isinstance(value, int):
                writer.add_uint32(key, value)
            elif isinstance(value, float):
                writer.add_float32(key, value)
            elif isinstance(value, list):
                writer.add_array(key, value)
            else:
                writer.add_string(key, value)
        for name, tensor in self.tensors.items():
            kind = self.quantised.get(name)
            data = tensor if kind is None else gguf.quants.quantize(tensor, kind)
            writer.add_tensor(name, data, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path


def _interleaved(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """The row order of llama.cpp: the two halves of a head zipped together."""
    rest = rows.shape[1:]
    return rows.reshape(heads, 2, -1, *rest).transpose(1, 2).reshape(-1, *rest)


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
                tensors[f"blk.{index}.attn_{letter}.{kind}"] = _interleaved(tensor, heads)
            else:
                tensors[f"blk.{index}.{_LAYER[module]}.{kind}"] = tensor
        words = [*WORDS, *(f"[PAD{n}]" for n in range(config.vocab_size - len(WORDS)))]
        return GGUFSpec(
            {name: tensor.numpy().copy() for name, tensor in tensors.items()},
            {
                "llama.block_count": config.num_hidden_layers,
                "llama.context_length": config.max_position_embeddings,
                "llama.embedding_length": config.hidden_size,
                "llama.feed_forward_length": config.intermediate_size,
                "llama.attention.head_count": H,
                "llama.attention.head_count_kv": G,
                "llama.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
                "llama.rope.freq_base": float(config.rope_parameters["rope_theta"]),
                "tokenizer.ggml.model": "gpt2",
                "tokenizer.ggml.pre": "smollm",
                "tokenizer.ggml.tokens": words,
                "tokenizer.ggml.token_type": [3, 3, 4, *[1] * (len(words) - 3)],
                "tokenizer.ggml.merges": ["h e", "l l", "he ll"],
                "tokenizer.ggml.eos_token_id": 1,
                "tokenizer.ggml.bos_token_id": 0,
            },
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
