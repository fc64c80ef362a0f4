"""Weights of a frozen decoder that every session shares, and the model that they make up.

Knows the names and shapes of the tensors of a decoder-only Transformer. Leaves computing with
them to forward.py, and where they come from to checkpoints/.

Shape suffixes: V vocabulary, D model width, H query heads, G key/value heads, K head width,
F mlp width. A weight is (outputs, inputs), as torch.nn.functional.linear takes it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hope_runtime.layers.attention import RotaryTable
from hope_runtime.layers.config import ModelConfig

if TYPE_CHECKING:
    from hope_runtime.tokenizer import Tokenizer


_SLIDING = ("sliding_window", "sliding_layers")


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One block. Query, key and value are fused by rows in this order, and so are gate and up.

    attn_norm (D,), qkv ((H+2G)*K, D), out (D, H*K), mlp_norm (D,), gate_up (2F, D), down (D, F).
    The others are there where ModelConfig says so: qkv_bias ((H+2G)*K,), out_bias (D,), q_norm and
    k_norm (K,) of each head or (H*K,) and (G*K,) of all, attn_post_norm and mlp_post_norm (D,) on
    what attention and MLP add. A model that has only those lacks attn_norm and mlp_norm.
    """

    attn_norm: Tensor | None
    qkv: Tensor
    out: Tensor
    mlp_norm: Tensor | None
    gate_up: Tensor
    down: Tensor
    qkv_bias: Tensor | None = None
    out_bias: Tensor | None = None
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None
    attn_post_norm: Tensor | None = None
    mlp_post_norm: Tensor | None = None

    def to(self, dtype: torch.dtype, device: torch.device | str) -> LayerWeights:
        """The same weights elsewhere or in another precision; shares what need not change."""
        moved: dict[str, Any] = {
            field.name: None if value is None else value.to(device=device, dtype=dtype)
            for field in dataclasses.fields(self)
            for value in (getattr(self, field.name),)
        }
        return LayerWeights(**moved)


@dataclass(frozen=True, slots=True)
class BaseWeights:
    """embedding (V, D), one LayerWeights a layer, final_norm (D,), lm_head (V, D).

    `lm_head` is the very tensor `embedding` when the two are tied.
    """

    embedding: Tensor
    layers: tuple[LayerWeights, ...]
    final_norm: Tensor
    lm_head: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of all weights."""
        return self.embedding.dtype

    @property
    def device(self) -> torch.device:
        """Device of all weights."""
        return self.embedding.device

    def to(self, dtype: torch.dtype, device: torch.device | str) -> BaseWeights:
        """The same weights elsewhere or in another precision; tied stays tied."""
        embedding = self.embedding.to(device=device, dtype=dtype)
        tied = self.lm_head is self.embedding
        return BaseWeights(
            embedding=embedding,
            layers=tuple(layer.to(dtype, device) for layer in self.layers),
            final_norm=self.final_norm.to(device=device, dtype=dtype),
            lm_head=embedding if tied else self.lm_head.to(device=device, dtype=dtype),
        )

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """Every stored tensor under its name, in a fixed order; a tied lm_head is left out."""
        yield "embedding", self.embedding
        for index, layer in enumerate(self.layers):
            for field in dataclasses.fields(layer):
                value = getattr(layer, field.name)
                if value is not None:
                    yield f"layers.{index}.{field.name}", value
        yield "final_norm", self.final_norm
        if self.lm_head is not self.embedding:
            yield "lm_head", self.lm_head


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that `BaseWeights.named` yields for this configuration."""
    D, F = config.d_model, config.d_ff
    HK = config.n_heads * config.head_dim
    QKV = HK + 2 * config.n_kv_heads * config.head_dim
    layer: dict[str, tuple[int, ...]] = {
        "attn_norm": (D,),
        "qkv": (QKV, D),
        "out": (D, HK),
        "mlp_norm": (D,),
        "gate_up": (2 * F, D),
        "down": (D, F),
    }
    if config.attention_bias or config.qkv_bias:
        layer["qkv_bias"] = (QKV,)
    if config.attention_bias:
        layer["out_bias"] = (D,)
    if config.qk_norm == "head":
        layer |= {"q_norm": (config.head_dim,), "k_norm": (config.head_dim,)}
    elif config.qk_norm == "full":
        layer |= {"q_norm": (HK,), "k_norm": (config.n_kv_heads * config.head_dim,)}
    if config.norms != "before":
        layer |= {"attn_post_norm": (D,), "mlp_post_norm": (D,)}
    if config.norms == "after":
        del layer["attn_norm"], layer["mlp_norm"]
    shapes: dict[str, tuple[int, ...]] = {"embedding": (config.vocab_size, D)}
    for index in range(config.n_layers):
        shapes |= {f"layers.{index}.{name}": shape for name, shape in layer.items()}
    shapes["final_norm"] = (D,)
    if not config.tie_embeddings:
        shapes["lm_head"] = (config.vocab_size, D)
    return shapes


def from_named(config: ModelConfig, tensors: dict[str, Tensor]) -> BaseWeights:
    """The inverse of `BaseWeights.named`. The names and shapes have been checked by the caller."""
    fields = [field.name for field in dataclasses.fields(LayerWeights)]
    layers = tuple(
        LayerWeights(**{name: tensors.get(f"layers.{index}.{name}") for name in fields})  # type: ignore[arg-type]
        for index in range(config.n_layers)
    )
    embedding = tensors["embedding"]
    lm_head = embedding if config.tie_embeddings else tensors["lm_head"]
    return BaseWeights(embedding, layers, tensors["final_norm"], lm_head)


def fingerprint_of(config: ModelConfig, weights: BaseWeights, tokenizer: Tokenizer) -> str:
    """SHA-256, in hex, over what a memory depends on: what the model computes, every stored byte of
    its weights, its vocabulary and how text is cut into tokens.

    The chat template, the tokens that end a text and the number of positions are no part of it, so
    that a model whose template was corrected keeps its memories. Nor is the width of sliding
    attention, which was a bound on positions once. Taken once, when a checkpoint is
    converted, over the tensors as stored: the precision that a server computes in is no part of a
    model's identity.
    """
    scaling = config.rope_scaling
    # Names of their own, which stay what they are when a field is renamed.
    computed = {
        "vocabulary": config.vocab_size,
        "width": config.d_model,
        "layers": config.n_layers,
        "heads": config.n_heads,
        "kv_heads": config.n_kv_heads,
        "head_width": config.head_dim,
        "mlp_width": config.d_ff,
        "norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": None
        if scaling is None
        else [
            scaling.factor,
            scaling.low_freq_factor,
            scaling.high_freq_factor,
            scaling.original_max_positions,
        ],
        "rope_factors": config.rope_factors,
        "tied": config.tie_embeddings,
        "attention_bias": config.attention_bias,
        **{k: v for k, v in config.later_fields().items() if k not in _SLIDING},
    }
    head = f"hope base model 2\n{json.dumps(computed, sort_keys=True)}"
    return _digest(head, weights, tokenizer.tokenisation_json())


def first_fingerprint_of(config: ModelConfig, weights: BaseWeights, tokenizer: Tokenizer) -> str:
    """The fingerprint under which sessions were stored before the chat template was left out of it:
    over the whole configuration and the whole tokenizer."""
    fields = config.to_fields()
    # Then a sliding window was served as a bound on positions.
    fields["max_positions"] = min(fields["max_positions"], fields.get("sliding_window", 1 << 62))
    head = json.dumps({k: v for k, v in fields.items() if k not in _SLIDING}, sort_keys=True)
    return _digest(head, weights, tokenizer.legacy_json())


def _digest(head: str, weights: BaseWeights, tail: str) -> str:
    digest = hashlib.sha256(head.encode())
    for name, tensor in weights.named():
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    digest.update(tail.encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class BaseModel:
    """A frozen base model: what all sessions of a server have in common.

    `fingerprint` identifies what a memory depends on (see `fingerprint_of`); a memory that was
    learnt on one base model is refused on another. `former` are fingerprints under which sessions
    of this very model were stored before. `name` is what people call it, if that is known.
    """

    config: ModelConfig
    weights: BaseWeights
    tokenizer: Tokenizer
    fingerprint: str
    former: frozenset[str] = frozenset()
    name: str = ""

    def is_known_as(self, fingerprint: str | None) -> bool:
        """Whether what was made under a fingerprint was made for this model."""
        return fingerprint == self.fingerprint or fingerprint in self.former

    @property
    def dtype(self) -> torch.dtype:
        """Dtype that the model computes in."""
        return self.weights.dtype

    @property
    def device(self) -> torch.device:
        """Device that the model computes on."""
        return self.weights.device

    @cached_property
    def rotaries(self) -> tuple[RotaryTable, ...]:
        """Rotary factors of all positions for each layer, in the dtype and on the device of the
        weights; layers that turn alike share a table."""
        config, here = self.config, (self.dtype, self.device)
        usual = sliding = RotaryTable.build(config, *here)
        if config.sliding_theta is not None:
            sliding = RotaryTable.build(config, *here, theta=config.sliding_theta)
        tables = [usual] * config.n_layers
        for layer in config.sliding_layers:
            tables[layer] = sliding
        for layer in config.unrotated_layers:
            tables[layer] = RotaryTable.still(config, *here)
        return tuple(tables)

    def to(self, dtype: torch.dtype, device: torch.device | str) -> BaseModel:
        """The same model, by fingerprint too, in another precision or place."""
        return dataclasses.replace(self, weights=self.weights.to(dtype, device))
