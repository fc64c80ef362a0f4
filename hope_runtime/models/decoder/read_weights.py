"""Tensors of a checkpoint -> BaseWeights: names, fused matrices and the order of rows.

Folds into the weights what folds exactly: the offset of norms, in float32; the row order of
queries and keys. Other factors stay numbers of ModelConfig: folded into bfloat16 they would round.

Shape suffixes: V vocabulary, D model width, H query heads, G key/value heads, K head width,
F MLP width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from hope_runtime.layers.config import ModelConfig
from hope_runtime.models.decoder.family import Family, Progress, TensorSource
from hope_runtime.models.decoder.weights import BaseWeights, from_named

_Names = Mapping[str, str]

_HUGGINGFACE: _Names = {
    "embedding": "embed_tokens.weight",
    "layer": "layers.{}.",
    "attn_norm": "input_layernorm.weight",
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
    "qkv": "self_attn.qkv_proj",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "out": "self_attn.o_proj",
    "attn_post_norm": "post_attention_layernorm.weight",
    "mlp_norm": "pre_feedforward_layernorm.weight",
    "gate_up": "mlp.gate_up_proj.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
    "mlp_post_norm": "post_feedforward_layernorm.weight",
    "final_norm": "norm.weight",
    "lm_head": "lm_head.weight",
}
# Models that see too hold the text model under a name of its own.
_STEMS = ("model.", "language_model.model.", "model.language_model.")
_GGUF: _Names = {
    "embedding": "token_embd.weight",
    "layer": "blk.{}.",
    "attn_norm": "attn_norm.weight",
    "q_norm": "attn_q_norm.weight",
    "k_norm": "attn_k_norm.weight",
    "qkv": "attn_qkv",
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "out": "attn_output",
    "attn_post_norm": "post_attention_norm.weight",
    "mlp_norm": "ffn_norm.weight",
    "gate_up": "ffn_up.weight",
    "gate": "ffn_gate.weight",
    "up": "ffn_up.weight",
    "down": "ffn_down.weight",
    "mlp_post_norm": "post_ffw_norm.weight",
    "final_norm": "output_norm.weight",
    "lm_head": "output.weight",
}


def weights_from_safetensors(
    family: Family, config: ModelConfig, source: TensorSource, progress: Progress
) -> BaseWeights:
    """Weights under Hugging Face's names, in their stored dtypes."""
    stem = next(
        (stem for stem in _STEMS if source.shape(f"{stem}{_HUGGINGFACE['embedding']}")), _STEMS[0]
    )
    names = dict(_HUGGINGFACE)
    for part in ("embedding", "layer", "final_norm"):
        names[part] = stem + names[part]
    if config.norms == "before":
        # Named for its place behind attention, which is before the MLP.
        names["mlp_norm"] = names["attn_post_norm"]
    return _read(family, config, source, progress, names, family.norm_offset, lambda rows: rows)


def weights_from_gguf(
    family: Family, config: ModelConfig, source: TensorSource, progress: Progress
) -> BaseWeights:
    """Weights under llama.cpp's names, with its row order of queries and keys undone."""
    order = partial(_halves, K=config.head_dim) if family.gguf_neighbours else lambda rows: rows
    return _read(family, config, source, progress, _GGUF, 0.0, order)


def _read(
    family: Family,
    config: ModelConfig,
    source: TensorSource,
    progress: Progress,
    names: _Names,
    norm_offset: float,
    order: Callable[[Tensor], Tensor],
) -> BaseWeights:
    """The fused weights; `order` puts the rows of queries and keys into Hugging Face's order, which
    pairs the two halves of what is rotated."""
    D, F, V, K = config.d_model, config.d_ff, config.vocab_size, config.head_dim
    HK, GK = config.n_heads * K, config.n_kv_heads * K

    def norm(name: str, width: int) -> Tensor:
        weight = source.take(name, (width,))
        return weight.float() + norm_offset if norm_offset else weight

    def turned(rows: Tensor) -> Tensor:
        return _spread(order(rows), K, config.rotated)

    tensors = {"embedding": source.take(names["embedding"], (V, D))}
    for index in range(config.n_layers):
        progress(index / config.n_layers, f"reading layer {index + 1} of {config.n_layers}")
        old, new = names["layer"].format(index), f"layers.{index}."

        def take(name: str, *shape: int, kind: str = "", old: str = old) -> Tensor:
            return source.take(f"{old}{names[name]}{kind}", shape)

        def qkv(kind: str, *rest: int, take: Callable[..., Tensor] = take) -> Tensor:
            if family.fused:
                parts = take("qkv", HK + 2 * GK, *rest, kind=kind).split_with_sizes((HK, GK, GK))
            else:
                sizes = (("q", HK), ("k", GK), ("v", GK))
                parts = tuple(take(name, size, *rest, kind=kind) for name, size in sizes)
            return torch.cat((turned(parts[0]), turned(parts[1]), parts[2]))

        tensors[f"{new}qkv"] = qkv(".weight", D)
        tensors[f"{new}out"] = take("out", D, HK, kind=".weight")
        if family.fused:
            tensors[f"{new}gate_up"] = take("gate_up", 2 * F, D)
        else:
            tensors[f"{new}gate_up"] = torch.cat((take("gate", F, D), take("up", F, D)))
        tensors[f"{new}down"] = take("down", D, F)
        if config.attention_bias or config.qkv_bias:
            tensors[f"{new}qkv_bias"] = qkv(".bias")
        if config.attention_bias:
            tensors[f"{new}out_bias"] = take("out", D, kind=".bias")
        for name, width in _norm_widths(config).items():
            tensors[f"{new}{name}"] = norm(old + names[name], width)
    tensors["final_norm"] = norm(names["final_norm"], D)
    if not config.tie_embeddings:
        tensors["lm_head"] = source.take(names["lm_head"], (V, D))
    return from_named(config, tensors)


def _norm_widths(config: ModelConfig) -> dict[str, int]:
    """The norms of a layer and their widths."""
    D, K = config.d_model, config.head_dim
    names = {
        "before": ("attn_norm", "mlp_norm"),
        "after": ("attn_post_norm", "mlp_post_norm"),
        "both": ("attn_norm", "mlp_norm", "attn_post_norm", "mlp_post_norm"),
    }[config.norms]
    widths = dict.fromkeys(names, D)
    if config.qk_norm == "head":
        widths |= {"q_norm": K, "k_norm": K}
    elif config.qk_norm == "full":
        widths |= {"q_norm": config.n_heads * K, "k_norm": config.n_kv_heads * K}
    return widths


def _halves(rows: Tensor, K: int) -> Tensor:
    """Rows of queries or keys, (n*K, ..), from llama.cpp's order, which pairs neighbours
    (2i, 2i+1), to ours, which pairs (i, i + K/2)."""
    rest = rows.shape[1:]
    return rows.reshape(-1, K // 2, 2, *rest).transpose(1, 2).reshape(-1, *rest)


def _spread(rows: Tensor, K: int, rotated: int) -> Tensor:
    """Rows of queries or keys, (n*K, ..), with the two halves of the first `rotated` of each head
    at the beginnings of the head's halves, as RotaryTable pairs them."""
    if rotated == K:
        return rows
    rest, half = rows.shape[1:], rotated // 2
    first, second, still = rows.reshape(-1, K, *rest).split_with_sizes(
        (half, half, K - rotated), dim=1
    )
    one, other = still.chunk(2, dim=1)
    return torch.cat((first, one, second, other), dim=1).reshape(-1, *rest)
