"""Shapes of layers: a decoder, and the Titans memories of a HOPE model.

Frozen dataclasses, checked when made. Knows no file format and no policy of learning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any, Literal, get_args

QkNorm = Literal["none", "head", "full"]
NormPlaces = Literal["before", "after", "both"]
Activation = Literal["silu", "gelu_tanh"]
Projection = Literal["k", "v", "q", "eta", "alpha"]
Rule = Literal["delta", "paper_literal", "gd", "hebbian"]


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Llama 3 scaling of the rotary frequencies (Llama 3 model card)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int

    def __post_init__(self) -> None:
        if self.factor < 1 or self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                "rope_scaling requires factor >= 1 and high_freq_factor > low_freq_factor"
            )


# Fields of ModelConfig that are hashed into every fingerprint, whatever their value. Frozen.
# fmt: off
_ALWAYS_STORED = frozenset({
    "vocab_size", "d_model", "n_layers", "n_heads", "n_kv_heads", "head_dim", "d_ff", "norm_eps",
    "rope_theta", "max_positions", "tie_embeddings", "rope_scaling", "attention_bias",
    "rope_factors",
})
# fmt: on


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Shape of a decoder-only Transformer, the frozen model that sessions share.

    Sizes are in elements; `rope_theta` is the base of the rotary frequencies. A GGUF file states
    the Llama 3 scaling as its result, one divisor per frequency: `rope_factors`, one for each
    rotary pair; other kinds of scaling are stored as such divisors too. At most one of
    `rope_scaling` and `rope_factors` is set.
    """

    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_ff: int
    norm_eps: float
    rope_theta: float
    max_positions: int
    tie_embeddings: bool
    rope_scaling: RopeScaling | None = None
    attention_bias: bool = False
    rope_factors: tuple[float, ...] | None = None
    # What other families than Llama have. The defaults are Llama's and enter no fingerprint.
    # Biases of queries, keys and values only; `attention_bias` has the output's too.
    qkv_bias: bool = False
    # RMS norm of queries and keys before rotation: of each head, or of all heads together.
    qk_norm: QkNorm = "none"
    # Where norms stand: before attention and MLP, on their outputs, or both.
    norms: NormPlaces = "before"
    activation: Activation = "silu"
    # Factor of the attention scores; None is 1 / sqrt(head_dim).
    attention_scale: float | None = None
    embedding_scale: float = 1.0
    # Factor of what attention and MLP add to the residual stream.
    residual_scale: float = 1.0
    logits_divisor: float = 1.0
    # Scores s become cap * tanh(s / cap); 0 leaves them.
    attention_softcap: float = 0.0
    logits_softcap: float = 0.0
    # Widths of each head that positions rotate, spread as RotaryTable says; None is all.
    rotary_dim: int | None = None
    # Factor of rotated queries and keys.
    rotary_gain: float = 1.0
    # Layers that see only the last `sliding_window` tokens, their own included, by index; and the
    # base of their rotary frequencies where it is another one, which are not scaled then.
    sliding_window: int = 0
    sliding_layers: tuple[int, ...] = ()
    sliding_theta: float | None = None
    # Layers without positions, by index.
    unrotated_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        sizes = (
            *(self.vocab_size, self.d_model, self.n_layers, self.n_heads, self.n_kv_heads),
            *(self.head_dim, self.d_ff, self.max_positions),
        )
        if any(type(size) is not int or size < 1 for size in sizes):
            raise ValueError("every size of a model must be a whole number of at least 1")
        if self.n_heads % self.n_kv_heads:
            raise ValueError("n_heads must be a multiple of n_kv_heads")
        if self.head_dim % 2:
            raise ValueError("head_dim must be even for rotary positions")
        if not 0 <= self.norm_eps < math.inf or not 0 < self.rope_theta < math.inf:
            raise ValueError("norm_eps must be finite, and rope_theta finite and above 0")
        if self.rope_factors is not None:
            if self.rope_scaling is not None:
                raise ValueError("rope_scaling and rope_factors are mutually exclusive")
            if len(self.rope_factors) * 2 != self.rotated or min(self.rope_factors) <= 0:
                raise ValueError("rope_factors must be one positive number for each rotary pair")
        self._check_variants()

    def _check_variants(self) -> None:
        """Raise ValueError for fields of other families than Llama that make no sense."""
        if self.rotated % 2 or not 0 < self.rotated <= self.head_dim:
            raise ValueError("rotary_dim must be even and at most head_dim")
        for name in ("embedding_scale", "residual_scale", "logits_divisor", "rotary_gain"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and above 0")
        if self.attention_scale is not None and not 0 < self.attention_scale < math.inf:
            raise ValueError("attention_scale must be finite and above 0")
        if self.sliding_theta is not None and not 0 < self.sliding_theta < math.inf:
            raise ValueError("sliding_theta must be finite and above 0")
        if min(self.attention_softcap, self.logits_softcap) < 0:
            raise ValueError("a soft cap must not be negative")
        if bool(self.sliding_layers) != (self.sliding_window > 0):
            raise ValueError("sliding_layers and sliding_window require each other")
        for name in ("sliding_layers", "unrotated_layers"):
            layers = getattr(self, name)
            inside = not layers or (layers[0] >= 0 and layers[-1] < self.n_layers)
            if not inside or any(before >= after for before, after in pairwise(layers)):
                raise ValueError(f"{name} must be ascending indices of layers")
        for name, kind in (("qk_norm", QkNorm), ("norms", NormPlaces), ("activation", Activation)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}")

    @property
    def rotated(self) -> int:
        """Widths of each head that positions rotate."""
        return self.head_dim if self.rotary_dim is None else self.rotary_dim

    @property
    def is_plain(self) -> bool:
        """Whether the block is Llama's: no field of the other families is set."""
        return not self.later_fields()

    def to_fields(self) -> dict[str, Any]:
        """The configuration as plain values, as it is stored and hashed into a fingerprint.

        Fields that came after _ALWAYS_STORED are left out while they have their default, so a
        model keeps its fingerprint when the configuration learns a new field.
        """
        stored = {name: value for name, value in asdict(self).items() if name in _ALWAYS_STORED}
        return stored | self.later_fields()

    def later_fields(self) -> dict[str, Any]:
        """The plain values of fields that came after _ALWAYS_STORED and have another value than
        their default."""
        values = asdict(self)
        return {
            item.name: values[item.name]
            for item in fields(self)
            if item.name not in _ALWAYS_STORED and getattr(self, item.name) != item.default
        }

    @classmethod
    def from_fields(cls, stored: Mapping[str, Any]) -> ModelConfig:
        """The inverse of `to_fields`, of values that went through JSON. Raises TypeError for a
        field that this version does not know, ValueError for values that do not fit together."""
        values = dict(stored)
        if values.get("rope_scaling") is not None:
            values["rope_scaling"] = RopeScaling(**values["rope_scaling"])
        for name in ("rope_factors", "sliding_layers", "unrotated_layers"):
            if values.get(name) is not None:
                values[name] = tuple(values[name])
        return cls(**values)

    @property
    def parameters_per_rank(self) -> int:
        """Parameters that one unit of rank costs over gate, up and down of all layers."""
        return 3 * self.n_layers * (self.d_model + self.d_ff)


@dataclass(frozen=True, slots=True)
class TitansConfig:
    """Self-modifying Titans (Nested Learning, section 8.1), and the memories it generalises.

    `rule` writes a value v̂ under a unit key k with step eta and keep fraction alpha:
      delta          M (alpha I - eta k kᵀ) + eta v̂ kᵀ: exact writing, the gated delta rule
      paper_literal  Eq. 88, whose L2 gradient erases a second time: it tends to v̂ / 2
      gd             alpha M - eta (M k - v̂) kᵀ, gradient at the chunk's snapshot
      hebbian        alpha M + eta v̂ kᵀ
    Keys, values, queries and gates named in `adaptive` come from memories that are written in
    context by the same rule (the paper: k, v, eta and alpha; `q` is its ablation); the others
    from static projections. With `self_targets` each memory writes M(v) instead of v (Eq. 86).
    """

    n_heads: int
    rule: Rule = "delta"
    adaptive: tuple[Projection, ...] = ("k", "v", "eta", "alpha")
    self_targets: bool = True
    # 1: linear memories. 2: residual ones, z + W1 silu(W2 z), with `hidden` units a head.
    depth: Literal[1, 2] = 2
    hidden: int = 0
    # Where a deep memory erases: at its input matrix only, or at each layer by the layer's input.
    deep_erase: Literal["input", "layers"] = "input"
    # Tokens between changes of the memory that is read, and of those that generate (Eq. 90).
    chunk_mem: int = 16
    chunk_other: int = 16
    # eta = eta_max * sigmoid * (1 + alpha) / 2. Without gates eta or alpha is 1.
    eta_max: float = 1.0
    eta_gate: bool = True
    alpha_gate: bool = True
    momentum: float = 0.0
    # Plain Titans and linear attention read what the token itself has just written.
    read_after_write: bool = False
    # SiLU on static queries, keys and values (Titans, section 4.4).
    activation: bool = False

    def __post_init__(self) -> None:
        if self.n_heads < 1 or min(self.chunk_mem, self.chunk_other) < 1:
            raise ValueError("n_heads, chunk_mem and chunk_other must be at least 1")
        if (self.depth == 2) != (self.hidden > 0):
            raise ValueError(
                "hidden must be above 0 for a memory of depth 2, and 0 for one of depth 1"
            )
        unknown = set(self.adaptive) - {"k", "v", "q", "eta", "alpha"}
        if unknown or len(set(self.adaptive)) != len(self.adaptive):
            raise ValueError("adaptive must contain each of k, v, q, eta and alpha at most once")
        if self.adaptive and not self.self_targets:
            raise ValueError("adaptive requires self_targets")
        if ("eta" in self.adaptive and not self.eta_gate) or (
            "alpha" in self.adaptive and not self.alpha_gate
        ):
            raise ValueError(
                "adaptive must not contain eta without eta_gate, or alpha without alpha_gate"
            )
        if self.depth == 2 and self.rule == "hebbian":
            raise ValueError("the Hebbian rule requires a memory of depth 1")
        # |alpha - eta| <= 1 (twice eta for the literal rule) keeps a repeated write bounded.
        limit = 1.0 if self.rule == "paper_literal" else 2.0
        if not 0 < self.eta_max <= limit:
            raise ValueError(f"eta_max must be in (0, {limit:g}] for the rule {self.rule}")
        if not 0 <= self.momentum < 1:
            raise ValueError("momentum must be in [0, 1)")
        if self.read_after_write and not self.per_token:
            raise ValueError("read_after_write requires a memory of depth 1 with chunk_mem 1")

    @property
    def per_token(self) -> bool:
        """Whether a run of tokens is read exactly, each after the one before it, in one pass.

        With a linear memory that changes at every token, the gradient at the snapshot is a
        function of the running memory, so the triangular form yields the reads as well.
        """
        return self.depth == 1 and self.chunk_mem == 1 and not self.momentum
