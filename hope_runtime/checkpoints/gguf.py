"""GGUF files of the llama architecture: header and quantised tensors -> configuration and weights.

Knows the names, the metadata and the row order that llama.cpp gives a Llama. Leaves the
container and its quantised tensors to gguf_file.py, the tokenizer in it to gguf_tokenizer.py, and
storing the result to native.py.

Shape suffixes: D model width, H heads, K head width, F mlp width.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hope_runtime.checkpoints.gguf_file import GGUFFile
from hope_runtime.checkpoints.gguf_metadata import check_metadata
from hope_runtime.checkpoints.gguf_tokenizer import tokenizer_from_metadata
from hope_runtime.errors import CorruptModelError, UnsupportedModelError
from hope_runtime.layers.config import ModelConfig
from hope_runtime.models.decoder.weights import BaseWeights, from_named
from hope_runtime.tokenizer import Tokenizer

Progress = Callable[[float, str], None]


def read_gguf(path: Path, progress: Progress) -> tuple[ModelConfig, BaseWeights, Tokenizer]:
    """Read a .gguf file; the weights are dequantised exactly, float32, on the CPU.

    Raises ModelNotFoundError, CorruptModelError (truncated; a tensor missing or misshapen),
    UnsupportedModelError (architecture, quantisation, tokenizer), TokenizerMissingError.
    """
    file = GGUFFile(path)
    config = _read_config(file)
    tokenizer = tokenizer_from_metadata(path, file.metadata)
    return config, _read_weights(config, file, progress), tokenizer


def _take(file: GGUFFile, name: str, shape: tuple[int, ...]) -> Tensor:
    entry = file.tensors.get(name)
    if entry is None:
        raise CorruptModelError(f"{file.path} does not contain the tensor {name}")
    if entry.shape != shape:
        raise CorruptModelError(
            f"tensor {name} of {file.path} has shape {entry.shape} instead of {shape}"
        )
    return torch.from_numpy(file.read(name))


def _read_config(file: GGUFFile) -> ModelConfig:
    path, metadata, tensors = file.path, file.metadata, file.tensors
    check_metadata(path, metadata)

    def get(key: str) -> Any:
        value = metadata.get(f"llama.{key}")
        if value is None:
            raise CorruptModelError(f"{path} does not contain the metadata llama.{key}")
        return value

    embedding = tensors.get("token_embd.weight")
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
        # Attention in this code sees the whole window, so a narrower one must not be needed.
        if window := metadata.get("llama.attention.sliding_window"):
            max_positions = min(max_positions, window)
        return ModelConfig(
            vocab_size=embedding.shape[0],
            d_model=D,
            n_layers=get("block_count"),
            n_heads=H,
            n_kv_heads=metadata.get("llama.attention.head_count_kv", H),
            head_dim=K,
            d_ff=get("feed_forward_length"),
            norm_eps=get("attention.layer_norm_rms_epsilon"),
            rope_theta=metadata.get("llama.rope.freq_base", 10_000.0),
            max_positions=max_positions,
            tie_embeddings="output.weight" not in tensors,
            attention_bias="blk.0.attn_q.bias" in tensors,
            rope_factors=tuple(_take(file, "rope_freqs.weight", (K // 2,)).tolist())
            if "rope_freqs.weight" in tensors
            else None,
        )
    except (TypeError, ValueError, ArithmeticError) as error:
        raise UnsupportedModelError(f"{path} describes an unsupported model: {error}") from error


def _read_weights(config: ModelConfig, file: GGUFFile, progress: Progress) -> BaseWeights:
    D, F, V = config.d_model, config.d_ff, config.vocab_size
    HK, GK = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    tensors = {"embedding": _take(file, "token_embd.weight", (V, D))}
    for index in range(config.n_layers):
        progress(index / config.n_layers, f"reading layer {index + 1} of {config.n_layers}")
        old, new = f"blk.{index}.", f"layers.{index}."

        def qkv(kind: str, rest: tuple[int, ...], old: str = old) -> Tensor:
            q = _take(file, f"{old}attn_q.{kind}", (HK, *rest))
            k = _take(file, f"{old}attn_k.{kind}", (GK, *rest))
            v = _take(file, f"{old}attn_v.{kind}", (GK, *rest))
            return torch.cat((_halves(q, config.head_dim), _halves(k, config.head_dim), v))

        tensors[f"{new}attn_norm"] = _take(file, f"{old}attn_norm.weight", (D,))
        tensors[f"{new}qkv"] = qkv("weight", (D,))
        tensors[f"{new}out"] = _take(file, f"{old}attn_output.weight", (D, HK))
        tensors[f"{new}mlp_norm"] = _take(file, f"{old}ffn_norm.weight", (D,))
        gate = _take(file, f"{old}ffn_gate.weight", (F, D))
        up = _take(file, f"{old}ffn_up.weight", (F, D))
        tensors[f"{new}gate_up"] = torch.cat((gate, up))
        tensors[f"{new}down"] = _take(file, f"{old}ffn_down.weight", (D, F))
        if config.attention_bias:
            tensors[f"{new}qkv_bias"] = qkv("bias", ())
            tensors[f"{new}out_bias"] = _take(file, f"{old}attn_output.bias", (D,))
    tensors["final_norm"] = _take(file, "output_norm.weight", (D,))
    if not config.tie_embeddings:
        tensors["lm_head"] = _take(file, "output.weight", (V, D))
    return from_named(config, tensors)


def _halves(rows: Tensor, K: int) -> Tensor:
    """Undo llama.cpp's row order, which pairs neighbours (2i, 2i+1) where we pair (i, i + K/2)."""
    rest = rows.shape[1:]
    return rows.reshape(-1, K // 2, 2, *rest).transpose(1, 2).reshape(-1, *rest)
