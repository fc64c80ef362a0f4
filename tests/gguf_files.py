"""GGUF files made to order, as llama.cpp's converters would write them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

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


def interleaved(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """The row order of llama.cpp: the two halves of a head zipped together."""
    rest = rows.shape[1:]
    return rows.reshape(heads, 2, -1, *rest).transpose(1, 2).reshape(-1, *rest)


def metadata_of(config: Any, architecture: str) -> dict[str, Any]:
    """What every architecture says of its sizes, and a tokenizer of bytes."""
    words = [*WORDS, *(f"[PAD{n}]" for n in range(config.vocab_size - len(WORDS)))]
    sizes = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
    }
    return {f"{architecture}.{key}": value for key, value in sizes.items()} | {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.token_type": [3, 3, 4, *[1] * (len(words) - 3)],
        "tokenizer.ggml.merges": ["h e", "l l", "he ll"],
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.bos_token_id": 0,
    }
