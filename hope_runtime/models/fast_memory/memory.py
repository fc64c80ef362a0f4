"""A trained fast memory beside a frozen base model: read in one window, recalled in another.

A fast memory sees the base's residual stream at a few layers (`sources`) and adds to it before one
layer behind them all (`target`). It is an associative memory of next tokens: a token is written
under a key made of the tokens before it, and a query made the same way reads what followed. Writes
are the gated delta rule of Nested Learning, section 8 (associative.py and delta_rule.py of layers/)
with an L2 objective and static projections; the outer loop that learns them is
hope_lab/train/fast_memory.

Because every source lies below the target, what is written and asked of a text does not depend on
what the memory holds. A session's state is two things of constant size: the matrices, which outlive
windows, and the carry, the last inputs of the window at hand, so that any cut of a text gives the
same state. An empty memory adds exactly zero.

Knows no sessions and no policy: which tokens write, and which memory is read, is its caller's.

Shape suffixes: B rows, T tokens, D model width, S sources, X = S * D, R width of an input,
U trunk units, H heads, K key width, V value width, W taps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor

from hope_runtime.layers.associative import LinearBank, Step
from hope_runtime.layers.delta_rule import decays, fold
from hope_runtime.layers.titans import unit
from hope_runtime.models.fast_memory.weights import FastMemory, FastMemoryConfig, FastMemoryWeights

# Tokens that are folded at once: the triangular system grows with their square.
RUN_TOKENS = 128


@dataclass(frozen=True, slots=True)
class FastMemoryStream:
    """State of B rows, float32: memory (B, H, V, K), and carry (B, W, R), the last W inputs of the
    window, zeros before its first token."""

    memory: Tensor
    carry: Tensor


def fresh_state(
    config: FastMemoryConfig, rows: int, device: torch.device | str = "cpu"
) -> FastMemoryStream:
    """Empty memories at the beginning of a window."""
    shape = rows, config.n_heads, config.value_width, config.key_width
    memory = torch.zeros(shape, device=device)
    return FastMemoryStream(memory, fresh_carry(config, rows, device))


def fresh_carry(config: FastMemoryConfig, rows: int, device: torch.device | str = "cpu") -> Tensor:
    """The carry at the beginning of a window, (B, W, R)."""
    return torch.zeros(rows, config.taps, config.input_width, device=device)


def write(
    config: FastMemoryConfig,
    weights: FastMemoryWeights,
    hidden_BTX: Tensor,
    state: FastMemoryStream,
    write_BT: Tensor | None = None,
) -> FastMemoryStream:
    """The state after T tokens; those where `write_BT` is False change no bit of the memory.

    `hidden_BTX` is the residual stream at the sources, side by side. None for `write_BT` writes
    all tokens.
    """
    scaled_BTX = _scaled(config, hidden_BTX, weights.down.dtype)
    input_BTR, carry = _joined(config, weights, scaled_BTX, state.carry)
    # The key of a token is made of those before it.
    before_BTU = _trunk(config, weights, input_BTR[:, :-1])
    token_BTD = scaled_BTX[..., : config.d_model]
    key_BHTK = unit(_heads(config, nnf.linear(before_BTU, weights.key)))
    value_BHTV = _heads(config, nnf.linear(token_BTD, weights.value))
    gate_BTH = nnf.linear(torch.cat((before_BTU, token_BTD), -1), weights.eta, weights.eta_bias)
    eta_BHT = torch.sigmoid(gate_BTH).transpose(1, 2)
    if write_BT is not None:
        eta_BHT = eta_BHT.masked_fill(~write_BT[:, None], 0.0)
    memory = state.memory
    # Under autocast, too, a memory keeps its precision: rounding adds up from write to write.
    key_BHTK, value_BHTV, eta_BHT = (
        part.to(memory.dtype) for part in (key_BHTK, value_BHTV, eta_BHT)
    )
    with torch.autocast(hidden_BTX.device.type, enabled=False):
        for start in range(0, hidden_BTX.shape[1], RUN_TOKENS):
            run = slice(start, start + RUN_TOKENS)
            eta = eta_BHT[..., run]
            step = Step("delta", eta, decays(torch.zeros_like(eta)))
            value = value_BHTV[..., run, :]
            writes = LinearBank().writes_per_token(key_BHTK[..., run, :], value, value, step)
            memory, _ = fold(memory, writes)
    return FastMemoryStream(memory, carry)


def read(
    config: FastMemoryConfig,
    weights: FastMemoryWeights,
    hidden_BTX: Tensor,
    state: FastMemoryStream,
) -> tuple[Tensor, FastMemoryStream]:
    """Values that T tokens find in the memory, (B, T, D), and the state with the window's new
    carry.

    Nothing is written; an empty memory gives exactly zero.
    """
    joined_BTR, carry = _joined(
        config, weights, _scaled(config, hidden_BTX, weights.down.dtype), state.carry
    )
    added_BTD = find(config, weights, joined_BTR[:, 1:], state.memory)
    return added_BTD, FastMemoryStream(state.memory, carry)


def inputs(config: FastMemoryConfig, weights: FastMemoryWeights, hidden_BTX: Tensor) -> Tensor:
    """Inputs of keys and queries, (B, T, R), each made of its own token alone."""
    return nnf.linear(_scaled(config, hidden_BTX, weights.down.dtype), weights.down)


def find(
    config: FastMemoryConfig, weights: FastMemoryWeights, input_BTR: Tensor, memory_BHVK: Tensor
) -> Tensor:
    """Values that T tokens find, (B, T, D), given their inputs behind those of the W - 1 tokens
    before them, (B, W - 1 + T, R)."""
    u_BTU = _trunk(config, weights, input_BTR)
    query_BHTK = unit(_heads(config, nnf.linear(u_BTU, weights.query)))
    gate_BTH = 2 * torch.sigmoid(nnf.linear(u_BTU, weights.gate, weights.gate_bias))
    found_BHTV = LinearBank().read((memory_BHVK,), query_BHTK)
    found_BHTV = found_BHTV * gate_BTH.transpose(1, 2)[..., None]
    return nnf.linear(found_BHTV.transpose(1, 2).flatten(2), weights.out)


class FastMemoryPass:
    """One forward pass with a fast memory: `forward(..., fast_memory=FastMemoryPass(...))`.

    Reads `state.memory` (a snapshot: nothing is written here) and keeps what `write` wants:
    `hidden`, (B, T, X). `state` is the one before the pass; `after` the one behind it, with
    the same memory and the new carry. With `state` None nothing is added, only kept.
    """

    def __init__(self, fast_memory: FastMemory, state: FastMemoryStream | None) -> None:
        self._fast_memory = fast_memory
        self._seen: list[Tensor] = []
        self.state = state
        self.after = state

    @property
    def hidden(self) -> Tensor:
        """The residual stream at the sources, side by side: (B, T, X)."""
        return torch.cat(self._seen, dim=-1)

    def at(self, layer: int, x_BTD: Tensor) -> Tensor:
        """Implementation of models.decoder.forward.FastMemory."""
        config = self._fast_memory.config
        if layer in config.sources:
            self._seen.append(x_BTD)
        if layer != config.target or self.state is None:
            return x_BTD
        added_BTD, self.after = read(config, self._fast_memory.weights, self.hidden, self.state)
        return x_BTD + added_BTD.to(x_BTD.dtype)


def _scaled(config: FastMemoryConfig, hidden_BTX: Tensor, dtype: torch.dtype) -> Tensor:
    """Every source of every token with a root mean square of 1."""
    B, T, X = hidden_BTX.shape
    parts = hidden_BTX.to(dtype).view(B, T, len(config.sources), config.d_model)
    scaled: Tensor = parts * torch.rsqrt(parts.square().mean(-1, keepdim=True) + 1e-5)
    return scaled.view(B, T, X)


def _joined(
    config: FastMemoryConfig, weights: FastMemoryWeights, scaled_BTX: Tensor, carry: Tensor
) -> tuple[Tensor, Tensor]:
    """The inputs of the trunk behind the carry, (B, W + T, R), and the new carry."""
    joined = torch.cat((carry, nnf.linear(scaled_BTX, weights.down)), dim=1)
    return joined, joined[:, joined.shape[1] - config.taps :]


def _trunk(config: FastMemoryConfig, weights: FastMemoryWeights, input_BTR: Tensor) -> Tensor:
    """(B, W - 1 + T, R) -> (B, T, U): each token with the W - 1 before it."""
    W = config.taps
    T = input_BTR.shape[1] - (W - 1)
    taps = [input_BTR[:, W - 1 - tap : W - 1 - tap + T] for tap in range(W)]
    trunk: Tensor = nnf.silu(nnf.linear(torch.cat(taps, dim=-1), weights.mix, weights.mix_bias))
    return trunk


def _heads(config: FastMemoryConfig, x_BTD: Tensor) -> Tensor:
    """(B, T, H * K) -> (B, H, T, K)."""
    B, T, _ = x_BTD.shape
    return x_BTD.view(B, T, config.n_heads, -1).transpose(1, 2)
