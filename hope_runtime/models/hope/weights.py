"""The weights of a HOPE model: what the outer loop learns, M_0 and theta_0 included.

A tree of frozen dataclasses with a flat view of dotted names, so that checkpoints and optimisers
need to know no more than that. Leaves computing to model.py.

Shape suffixes: V vocabulary, D model width, H heads, K head width, F units of an MLP or a memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hope_runtime.errors import CorruptModelError
from hope_runtime.layers.associative import Parameters, banks_of
from hope_runtime.layers.cms import LevelWeights, Theta
from hope_runtime.layers.config import ModelConfig, TitansConfig
from hope_runtime.layers.titans_state import TAPS, TitansWeights
from hope_runtime.layers.tree import map_tensors, named_tensors, with_tensors
from hope_runtime.models.hope.config import HopeConfig


@dataclass(frozen=True, slots=True)
class AttentionWeights:
    """norm (D,), qkv ((H+2G)*K, D), out (D, H*K); biases where ModelConfig.attention_bias says."""

    norm: Tensor
    qkv: Tensor
    out: Tensor
    qkv_bias: Tensor | None = None
    out_bias: Tensor | None = None


@dataclass(frozen=True, slots=True)
class BlockWeights:
    """One block. `levels` are those of HopeConfig.levels_of; `mix` (levels,) sums independent
    ones."""

    attention: AttentionWeights | None
    fast: TitansWeights | None
    levels: tuple[LevelWeights, ...]
    mix: Tensor | None


@dataclass(frozen=True, slots=True)
class HopeWeights:
    """embedding (V, D), blocks, final_norm (D,); lm_head (V, D), None when tied to the embedding.

    Tensors are leaves of the outer loop; nothing that happens in a session changes them.
    """

    embedding: Tensor
    blocks: tuple[BlockWeights, ...]
    final_norm: Tensor
    lm_head: Tensor | None

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of all weights."""
        return self.embedding.dtype

    @property
    def device(self) -> torch.device:
        """Device of all weights."""
        return self.embedding.device

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor under its dotted name, in a fixed order."""
        return named_tensors(self)

    def map(self, function: Callable[[Tensor], Tensor]) -> HopeWeights:
        """The same tree with each tensor replaced by what `function` makes of it."""
        return map_tensors(function, self)

    def to(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> HopeWeights:
        """The same weights elsewhere or in another precision."""
        return self.map(lambda tensor: tensor.to(device=device, dtype=dtype))

    def detached(self) -> HopeWeights:
        """The same weights outside any graph; shares storage."""
        if not any(tensor.requires_grad for _, tensor in self.named()):
            return self
        return self.map(Tensor.detach)

    def theta(self, config: HopeConfig, level: int) -> Theta:
        """theta_0 of one level over all blocks that have it."""
        tensors: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            for at, weights in zip(config.levels_of(index), block.levels, strict=True):
                if at == level:
                    tensors += [weights.gate_up, weights.down]
        return tuple(tensors)


def init_weights(config: HopeConfig, seed: int) -> HopeWeights:
    """Random weights in float32 on the CPU, from nothing but the configuration and the seed."""
    draw = _Draw(seed)
    backbone = config.backbone
    D, L = backbone.d_model, backbone.n_layers
    # Each block adds to the stream a few times; together they should not drown the embedding.
    into_stream = 1 / math.sqrt(2 * L)
    blocks = []
    for index in range(L):
        levels = tuple(
            LevelWeights(
                norm=torch.ones(D),
                gate_up=draw.matrix(2 * config.levels[at].d_ff, D),
                down=draw.matrix(D, config.levels[at].d_ff, into_stream),
            )
            for at in config.levels_of(index)
        )
        independent = config.variant == "independent" and levels
        blocks.append(
            BlockWeights(
                attention=_attention(draw, backbone, into_stream) if config.attention else None,
                fast=None if config.fast is None else _fast(draw, config.fast, D, into_stream),
                levels=levels,
                mix=torch.full((len(levels),), 1 / len(levels)) if independent else None,
            )
        )
    return HopeWeights(
        embedding=draw.matrix(backbone.vocab_size, D),
        blocks=tuple(blocks),
        final_norm=torch.ones(D),
        lm_head=None if backbone.tie_embeddings else draw.matrix(backbone.vocab_size, D),
    )


def from_named(config: HopeConfig, tensors: Mapping[str, Tensor]) -> HopeWeights:
    """The inverse of `HopeWeights.named`. Raises CorruptModelError for what does not fit."""
    with torch.device("meta"):
        expected = init_weights(config, 0)
    shapes = {name: tuple(tensor.shape) for name, tensor in expected.named()}
    for name, shape in shapes.items():
        if name not in tensors:
            raise CorruptModelError(f"tensor {name} is missing")
        if tuple(tensors[name].shape) != shape:
            found = tuple(tensors[name].shape)
            raise CorruptModelError(f"tensor {name} has shape {found} instead of {shape}")
    unknown = sorted(set(tensors) - set(shapes))
    if unknown:
        raise CorruptModelError(f"tensor {unknown[0]} is not part of the configuration")
    return with_tensors(expected, tensors)


class _Draw:
    """Normal matrices from one seed, in the order in which they are asked for."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def matrix(self, outputs: int, inputs: int, scale: float = 1.0) -> Tensor:
        return self.tensor((outputs, inputs), scale / math.sqrt(inputs))

    def tensor(self, shape: tuple[int, ...], deviation: float) -> Tensor:
        if torch.get_default_device().type == "meta":
            return torch.empty(shape)
        return torch.randn(shape, generator=self._generator) * deviation


def _attention(draw: _Draw, config: ModelConfig, into_stream: float) -> AttentionWeights:
    D, HK = config.d_model, config.n_heads * config.head_dim
    width = HK + 2 * config.n_kv_heads * config.head_dim
    weights = AttentionWeights(
        norm=torch.ones(D), qkv=draw.matrix(width, D), out=draw.matrix(D, HK, into_stream)
    )
    if not config.attention_bias:
        return weights
    return replace(weights, qkv_bias=torch.zeros(width), out_bias=torch.zeros(D))


def _fast(draw: _Draw, config: TitansConfig, D: int, into_stream: float) -> TitansWeights:
    H = config.n_heads
    conv = draw.tensor((D, TAPS), 0.1)
    conv[:, -1] += 1.0

    def static(name: str) -> Tensor | None:
        return None if name in config.adaptive else draw.matrix(D, D)

    def gate(name: str, exists: bool) -> Tensor | None:
        return draw.matrix(H, D, 0.1) if exists and name not in config.adaptive else None

    return TitansWeights(
        norm=torch.ones(D),
        conv=conv,
        mix=draw.matrix(D, D) if config.adaptive and H > 1 else None,
        k=static("k"),
        v=static("v"),
        q=static("q"),
        eta=gate("eta", config.eta_gate),
        alpha=gate("alpha", config.alpha_gate),
        eta_bias=_eta_bias(config) if config.eta_gate else None,
        # Keeps 99.3 % a token at first.
        alpha_bias=torch.full((H,), 5.0) if config.alpha_gate else None,
        initial=_initial_memories(draw, config, D // H),
        out_norm=torch.ones(D // H),
        gate=draw.matrix(D, D),
        out=draw.matrix(D, D, into_stream),
    )


# Share of eta_max at which the last head begins.
_WIDEST_ETA = 0.75


def _eta_bias(config: TitansConfig) -> Tensor:
    """The logits of each head's first eta, (H,), stable even for a chunk of one and the same token.

    The delta rule of a linear memory erases token by token, so it may write half of a value. Where
    gradients are taken at a snapshot, a chunk adds them up, and momentum adds up chunks. Where eta
    may pass 1, heads begin spread up to there: what a memory keeps of a repeated key is 1 - eta a
    token, and from around 0 no gradient leads to the alternation that counting needs.
    """
    share = 0.5
    if config.depth == 2 or config.rule != "delta":
        share = min(share, (1 - config.momentum) / max(config.chunk_mem, config.chunk_other))
    share = min(share / config.eta_max, 0.5)
    shares = torch.full((config.n_heads,), share)
    if config.eta_max > 1 and config.per_token:
        shares = torch.linspace(share, _WIDEST_ETA, config.n_heads)
    return torch.logit(shares)


def _initial_memories(draw: _Draw, config: TitansConfig, K: int) -> tuple[Parameters, ...]:
    """M_0 of every bank. Self-generated writes multiply what is there, so none may be zero, except
    the gates, whose bias speaks first; the memory that is read begins as the identity."""
    H, F = config.n_heads, config.hidden
    states: list[Parameters] = []
    for _, names in banks_of(config):
        if config.depth == 1:
            if names == ("mem",):
                start = torch.eye(K).expand(H, K, K).clone()
                states.append((start if config.self_targets else torch.zeros(H, K, K),))
                continue
            parts = [
                torch.zeros(H, 1, K)
                if name in ("eta", "alpha")
                else draw.tensor((H, K, K), 1 / math.sqrt(K))
                for name in names
            ]
            states.append((torch.cat(parts, dim=1),))
            continue
        N = len(names)
        outputs = 1 if names[0] in ("eta", "alpha") else K
        # Of a unit key the hidden units make a vector of about unit norm: W1's step is eta.
        inner = draw.tensor((H, N * F, K), 2 / math.sqrt(F))
        deviation = 1 / math.sqrt(F) if names[0] in ("k", "v", "q") else 0.1 / math.sqrt(F)
        states.append((inner, draw.tensor((H, N, outputs, F), deviation)))
    return tuple(states)
