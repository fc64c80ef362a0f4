"""Configuration and weights of the trained fast memory beside a frozen base model.

What is computed with them is memory.py's; files are checkpoints/fast_memory.py's.

Shape suffixes: D model width, X sources * D, R width of an input, U trunk units, H heads,
K key width, V value width, W taps.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from hope_runtime.models.decoder.weights import BaseModel


@dataclass(frozen=True, slots=True)
class FastMemoryConfig:
    """Shape of a branch on a base model of width `d_model`.

    `sources` are layers whose input the branch sees, rising; 0 is the embedding. What it reads is
    added to the input of layer `target`; n_layers stands for behind the last. A key or a query is
    made of `taps` tokens, each brought to `input_width`, by a trunk of `hidden` units.
    """

    d_model: int
    sources: tuple[int, ...]
    target: int
    n_heads: int = 2
    key_width: int = 256
    value_width: int = 288
    taps: int = 4
    input_width: int = 256
    hidden: int = 512

    def __post_init__(self) -> None:
        sizes = (self.d_model, self.n_heads, self.key_width, self.value_width, self.input_width)
        if min(*sizes, self.hidden, self.taps) < 1:
            raise ValueError("every size of a branch is at least 1")
        if not self.sources or list(self.sources) != sorted(set(self.sources)):
            raise ValueError("sources are at least one layer, rising")
        if self.sources[0] < 0 or self.sources[-1] > self.target:
            raise ValueError("a branch adds at or behind the last layer that it sees")

    @property
    def seen_width(self) -> int:
        """X: values a token that the branch sees."""
        return len(self.sources) * self.d_model

    def to_fields(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_fields(fields: Mapping[str, Any]) -> FastMemoryConfig:
        """The inverse of `to_fields`, after JSON too. Raises ValueError, TypeError or KeyError."""
        return FastMemoryConfig(**dict(fields) | {"sources": tuple(fields["sources"])})


@dataclass(frozen=True, slots=True)
class FastMemoryWeights:
    """What the outer loop learns; (outputs, inputs) where a matrix is one of nnf.linear.

    down (R, X); mix (U, W * R) and mix_bias (U,): the trunk, newest token first; key and query
    (H * K, U); value (H * V, D) of the first source; eta (H, U + D) and eta_bias (H,): how
    strongly a token writes; gate (H, U) and gate_bias (H,): how strongly it reads; out (D, H * V).
    """

    down: Tensor
    mix: Tensor
    mix_bias: Tensor
    key: Tensor
    query: Tensor
    value: Tensor
    eta: Tensor
    eta_bias: Tensor
    gate: Tensor
    gate_bias: Tensor
    out: Tensor

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor under its name, in a fixed order."""
        for field in dataclasses.fields(self):
            yield field.name, getattr(self, field.name)

    @staticmethod
    def from_named(tensors: Mapping[str, Tensor]) -> FastMemoryWeights:
        """The inverse of `named`. The names and shapes have been checked by the caller."""
        return FastMemoryWeights(**tensors)

    def to(self, dtype: torch.dtype, device: torch.device | str) -> FastMemoryWeights:
        """The same weights elsewhere or in another precision."""
        return FastMemoryWeights(
            **{name: tensor.to(device=device, dtype=dtype) for name, tensor in self.named()}
        )


def _identity(config: FastMemoryConfig) -> str:
    """The text of a configuration that enters digests, of which stored sessions name their fast
    memory. It never changes, whatever classes and fields are called in the code."""
    fields = (
        ("d_model", config.d_model),
        ("sources", config.sources),
        ("target", config.target),
        ("n_heads", config.n_heads),
        ("key_width", config.key_width),
        ("value_width", config.value_width),
        ("taps", config.taps),
        ("input_width", config.input_width),
        ("hidden", config.hidden),
    )
    return f"BranchConfig({', '.join(f'{name}={value!r}' for name, value in fields)})"


@dataclass(frozen=True)
class FastMemory:
    """A trained fast memory: configuration and weights.

    `earlier` are the ones that it replaces: what they wrote in a session means nothing to it, so
    such a session goes on with the one that wrote it.
    """

    config: FastMemoryConfig
    weights: FastMemoryWeights
    earlier: tuple[FastMemory, ...] = ()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of both, in hex: what one branch wrote means nothing to another."""
        digest = hashlib.sha256(_identity(self.config).encode())
        for _, tensor in self.weights.named():
            digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def shape(self, rows: int = 1) -> tuple[int, int, int, int]:
        """Of the memories of some rows, (B, H, V, K)."""
        config = self.config
        return rows, config.n_heads, config.value_width, config.key_width


def expected_shapes(config: FastMemoryConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that `FastMemoryWeights.named` yields."""
    D, U, H = config.d_model, config.hidden, config.n_heads
    K, V = config.key_width, config.value_width
    return {
        "down": (config.input_width, config.seen_width),
        "mix": (U, config.taps * config.input_width),
        "mix_bias": (U,),
        "key": (H * K, U),
        "query": (H * K, U),
        "value": (H * V, D),
        "eta": (H, U + D),
        "eta_bias": (H,),
        "gate": (H, U),
        "gate_bias": (H,),
        "out": (D, H * V),
    }


def check_fits(fast_memory: FastMemory, model: BaseModel) -> None:
    """Raises ValueError for a branch that was made for a base model of another shape."""
    config = fast_memory.config
    if config.d_model != model.config.d_model or config.target > model.config.n_layers:
        raise ValueError("the branch was made for a base model of another shape")
    for name, tensor in fast_memory.weights.named():
        if tuple(tensor.shape) != expected_shapes(config)[name]:
            raise ValueError(f"{name} of the branch has the shape {tuple(tensor.shape)}")


def init_weights(config: FastMemoryConfig, seed: int) -> FastMemoryWeights:
    """Weights to begin training with, float32. Reads find writes from the first step: queries are
    keys, and what is read is turned back by half of what turned the value."""
    generator = torch.Generator().manual_seed(seed)
    shapes = expected_shapes(config)

    def matrix(name: str) -> Tensor:
        drawn = torch.randn(shapes[name], generator=generator)
        return drawn / math.sqrt(shapes[name][1])

    key = matrix("key")
    value = torch.randn(shapes["value"], generator=generator)
    value = torch.linalg.qr(value if value.shape[0] >= value.shape[1] else value.T).Q
    if value.shape != shapes["value"]:
        value = value.T.contiguous()
    made = {name: torch.zeros(shape) for name, shape in shapes.items()}
    made |= {"down": matrix("down"), "mix": matrix("mix"), "key": key, "query": key.clone()}
    made |= {"value": value, "out": 0.5 * value.T.contiguous()}
    return FastMemoryWeights.from_named(made)
