"""Attention over a window: rotary positions and grouped heads.

Knows one layer's attention. Leaves the cache of keys and values to kv_cache.py, the window's policy
(what is pinned, when it hops) to session/window.py, and the order of the layers to the models.

Shape suffixes: B rows, T new tokens, S keys (cached and new), D model width, H query heads,
G key/value heads, K head width, L layers, C capacity of a cache, P positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor

from hope_runtime.errors import WindowOverflowError
from hope_runtime.layers.config import ModelConfig


def rotary_frequencies(config: ModelConfig, theta: float | None = None) -> Tensor:
    """Angular frequencies of the rotary pairs, in radians a position; float32 (rotated / 2,).

    `theta` is another base than the configuration's; its frequencies are not scaled, nor is what
    they rotate.

    With Llama 3 scaling, wavelengths longer than the original context are slowed by `factor`,
    those much shorter are kept, and those between are blended linearly in frequency.
    """
    K = config.rotated
    # float32 throughout, because that is what the models were trained with.
    exponents = torch.arange(0, K, 2, dtype=torch.float32) / K
    if theta is not None:
        return 1.0 / theta**exponents
    frequencies = 1.0 / config.rope_theta**exponents
    if config.rope_factors is not None:
        return frequencies / torch.tensor(config.rope_factors, dtype=torch.float32)
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    turns = scaling.original_max_positions * frequencies / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return kept * frequencies + (1 - kept) * frequencies / scaling.factor


def rotary_factors(angles: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of (..., K/2) angles as `turn_heads` wants them, (..., K) each."""
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


@dataclass(frozen=True, slots=True)
class RotaryTable:
    """Factors that turn queries and keys by their position: cos_PK and sin_PK.

    A head's first half pairs with its second half. The sign of the rotation is folded into
    sin_PK, so that x turned = x * cos + (x with halves exchanged) * sin. Where only a part of a
    head is rotated, its pairs are the first of each half, and the others stand still.
    """

    cos_PK: Tensor
    sin_PK: Tensor

    @classmethod
    def build(
        cls,
        config: ModelConfig,
        dtype: torch.dtype,
        device: torch.device | str,
        *,
        theta: float | None = None,
    ) -> RotaryTable:
        """Factors for positions 0 to max_positions - 1, computed in float32, then cast. `theta` as
        in `rotary_frequencies`."""
        positions = torch.arange(config.max_positions, dtype=torch.float32)
        frequencies = rotary_frequencies(config, theta)
        moving = len(frequencies)
        frequencies = nnf.pad(frequencies, (0, config.head_dim // 2 - moving))
        cos_PK, sin_PK = rotary_factors(torch.outer(positions, frequencies))
        if config.rotary_gain != 1.0 and theta is None:
            for table_PK in (cos_PK, sin_PK):
                table_PK.view(len(positions), 2, -1)[..., :moving] *= config.rotary_gain
        return cls(
            cos_PK=cos_PK.to(device=device, dtype=dtype),
            sin_PK=sin_PK.to(device=device, dtype=dtype),
        )

    @classmethod
    def still(
        cls, config: ModelConfig, dtype: torch.dtype, device: torch.device | str
    ) -> RotaryTable:
        """Factors that turn nothing, for a layer without positions."""
        shape = (config.max_positions, config.head_dim)
        return cls(
            cos_PK=torch.ones((), dtype=dtype, device=device).expand(shape),
            sin_PK=torch.zeros((), dtype=dtype, device=device).expand(shape),
        )

    def at(self, positions_BT: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin for given positions, (B, T, 1, K) each: one value for all heads."""
        return self.cos_PK[positions_BT].unsqueeze(2), self.sin_PK[positions_BT].unsqueeze(2)

    def run(self, start: int, count: int) -> tuple[Tensor, Tensor]:
        """cos and sin for `count` positions from `start`, (1, T, 1, K) each; views, no copy.

        Raises WindowOverflowError past the last position that the model knows.
        """
        stop, known = start + count, self.cos_PK.shape[0]
        if stop > known:
            raise WindowOverflowError(f"{stop} tokens exceed the {known} positions of the model")
        return self.cos_PK[None, start:stop, None], self.sin_PK[None, start:stop, None]


def turn_heads(
    config: ModelConfig, qkv_BTX: Tensor, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Fused projections to turned queries (B, H, T, K), turned keys and values (B, G, T, K).

    cos and sin are (B or 1, T, 1, K).
    """
    H, G, K = config.n_heads, config.n_kv_heads, config.head_dim
    B, T, _ = qkv_BTX.shape
    heads_BTXK = qkv_BTX.view(B, T, H + 2 * G, K)
    turned = rotate(heads_BTXK[:, :, : H + G], cos, sin)  # queries and keys together
    q_BHTK = turned[:, :, :H].transpose(1, 2)
    k_BGTK = turned[:, :, H:].transpose(1, 2)
    return q_BHTK, k_BGTK, heads_BTXK[:, :, H + G :].transpose(1, 2)


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Heads turned by their position, (.., K) -> (.., K); cos and sin as RotaryTable has them."""
    # Exchanging the halves of a head is a roll by K/2.
    return torch.addcmul(heads * cos, heads.roll(heads.shape[-1] // 2, dims=-1), sin)


def mix_heads(
    q_BHTK: Tensor,
    k_BGSK: Tensor,
    v_BGSK: Tensor,
    *,
    causal: bool,
    bias: Tensor | None,
    scale: float | None = None,
    softcap: float = 0.0,
) -> Tensor:
    """Values mixed by softmax scores, (B, T, H*K).

    `bias` is added to the scores, (B or 1, 1, T, S) or (T, S); with `causal` it is None and the
    plain causal rule holds. `scale` and `softcap` are ModelConfig's attention_scale and
    attention_softcap.
    """
    B, H, T, K = q_BHTK.shape
    G = k_BGSK.shape[1]
    if softcap:
        return _mix_capped(q_BHTK, k_BGSK, v_BGSK, causal, bias, scale or K**-0.5, softcap)
    if T == 1:
        # One token: the query heads of a group are the rows of one product with its keys, so
        # grouping costs nothing. The bias, if any, is the same for all heads.
        grouped = q_BHTK.reshape(B, G, H // G, K)
        mixed = nnf.scaled_dot_product_attention(
            grouped, k_BGSK, v_BGSK, attn_mask=bias, scale=scale
        )
        return mixed.reshape(B, 1, H * K)
    mixed_BHTK = nnf.scaled_dot_product_attention(
        q_BHTK, k_BGSK, v_BGSK, attn_mask=bias, is_causal=causal, scale=scale, enable_gqa=G != H
    )
    return mixed_BHTK.transpose(1, 2).reshape(B, T, H * K)


def _mix_capped(
    q_BHTK: Tensor,
    k_BGSK: Tensor,
    v_BGSK: Tensor,
    causal: bool,
    bias: Tensor | None,
    scale: float,
    softcap: float,
) -> Tensor:
    """Attention with capped scores, which the fused kernels do not compute."""
    B, H, T, K = q_BHTK.shape
    G, S = k_BGSK.shape[1], k_BGSK.shape[2]
    scores = (q_BHTK.reshape(B, G, H // G * T, K) @ k_BGSK.mT).view(B, H, T, S)
    scores = soft_capped(scores * scale, softcap)
    if causal:
        later_TS = torch.ones(T, S, dtype=torch.bool, device=scores.device).triu(S - T + 1)
        scores = scores.masked_fill(later_TS, float("-inf"))
    elif bias is not None:
        scores = scores + bias
    shares = scores.softmax(dim=-1).view(B, G, H // G * T, S)
    return (shares @ v_BGSK).view(B, H, T, K).transpose(1, 2).reshape(B, T, H * K)


def soft_capped(scores: Tensor, cap: float) -> Tensor:
    """cap * tanh(scores / cap), or the scores themselves when the cap is 0."""
    return torch.tanh(scores / cap) * cap if cap else scores
