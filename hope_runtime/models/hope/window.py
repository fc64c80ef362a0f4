"""Attention over a sliding window, a pure function of (weights, window, tokens).

Keys are cached as they were turned and as the weights of their time made them; a stream has no last
position. Single tokens gather in a short tail, so that reading one does not copy the window, which
would cost more than everything else. Leaves attention itself to model/attention.py.

Shape suffixes: B rows, T new tokens, S keys (cached and new), D model width, G key/value heads,
K head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as nnf
from torch import Tensor

from hope_runtime.layers.attention import mix_heads, rotary_factors, rotary_frequencies, turn_heads
from hope_runtime.layers.config import ModelConfig
from hope_runtime.layers.norm import rms_norm
from hope_runtime.models.hope.weights import AttentionWeights

# Tokens that gather in a tail before they join the rest.
TAIL_TOKENS = 64


@dataclass(frozen=True, slots=True)
class KeysValues:
    """The window of one layer: turned keys and values (B, G, S, K), the newest last.

    The newest TAIL_TOKENS - 1 at most lie in the tail. Rows that have seen fewer tokens than there
    are entries have meaningless ones in front.
    """

    k: Tensor
    v: Tensor
    tail_k: Tensor
    tail_v: Tensor

    @property
    def tokens(self) -> int:
        """Tokens of the window, its tail included."""
        return self.k.shape[2] + self.tail_k.shape[2]

    @staticmethod
    def empty(config: ModelConfig, rows: int, like: Tensor) -> KeysValues:
        """A window that has seen nothing, in the dtype and on the device of `like`."""
        nothing = like.new_zeros(rows, config.n_kv_heads, 0, config.head_dim)
        return KeysValues(nothing, nothing, nothing, nothing)

    def settled(self, tokens: int) -> KeysValues:
        """The same window without a tail, cut or padded in front to `tokens` entries."""
        k, v = torch.cat((self.k, self.tail_k), dim=2), torch.cat((self.v, self.tail_v), dim=2)
        missing = tokens - k.shape[2]
        if missing > 0:
            k, v = nnf.pad(k, (0, 0, missing, 0)), nnf.pad(v, (0, 0, missing, 0))
        k, v = _newest(k, tokens), _newest(v, tokens)
        return KeysValues(k, v, k[:, :, :0], v[:, :, :0])


@dataclass(frozen=True, slots=True)
class Sight:
    """Attention's inputs that all layers of a forward pass share; made once.

    `keep` says how the window after the pass is cut from cached and new keys: the number of the
    newest, or each row's own choice (B, S'). None appends a single token to the tail; then `skip`
    is the number of oldest keys that have left the window.
    """

    cos: Tensor
    sin: Tensor
    causal: bool
    bias: Tensor | None
    keep: int | Tensor | None
    skip: int = 0

    @staticmethod
    def of(
        config: ModelConfig,
        size: int,
        window: KeysValues,
        position_B: Tensor,
        lengths_B: Tensor | None,
        T: int,
    ) -> Sight:
        """Sight of T tokens, lengths_B of them real, behind position_B in a window of `size`
        tokens."""
        S = window.tokens
        device, dtype = window.k.device, window.k.dtype
        cos, sin = _turns(config, position_B[:, None] + torch.arange(T))
        cos, sin = cos.to(device=device, dtype=dtype), sin.to(device=device, dtype=dtype)
        filled_B = position_B.clamp(max=S)
        ragged = bool((filled_B < S).any())
        single = T == 1 and lengths_B is None and size > TAIL_TOKENS
        if single and not ragged and window.tail_k.shape[2] < TAIL_TOKENS - 1:
            return Sight(cos, sin, False, None, None, skip=max(S + 1 - size, 0))
        read_B = torch.full_like(filled_B, T) if lengths_B is None else lengths_B
        most = min(int((filled_B + read_B).max()), size - 1)
        keep: int | Tensor = most
        if lengths_B is not None:
            # Cached and new keys lie in one row of S + T; each row ends at its own last token.
            last = S + lengths_B[:, None] - most + torch.arange(most)
            keep = last.clamp(min=0).to(device)
        if not ragged and size >= S + T and (S == 0 or T == 1):
            return Sight(cos, sin, causal=T > 1, bias=None, keep=keep)
        key = torch.arange(S + T)
        query = torch.arange(T)[:, None]
        seen = (key <= S + query) & (key > S + query - size)
        if ragged:
            seen = seen & (key >= S - filled_B[:, None, None])
        bias = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, float("-inf"))
        bias = bias.to(device)
        return Sight(cos, sin, causal=False, bias=bias[:, None] if ragged else bias, keep=keep)


def attention(
    x_BTD: Tensor,
    *,
    config: ModelConfig,
    weights: AttentionWeights,
    window: KeysValues,
    sight: Sight,
) -> tuple[Tensor, KeysValues]:
    """One layer's attention without its residual, (B, T, D) -> (B, T, D), and the window after."""
    normed = rms_norm(x_BTD, weights.norm, config.norm_eps)
    qkv = nnf.linear(normed, weights.qkv, weights.qkv_bias)
    q, k, v = turn_heads(config, qkv, sight.cos, sight.sin)
    if sight.keep is None:
        tail_k = torch.cat((window.tail_k, k), dim=2)
        tail_v = torch.cat((window.tail_v, v), dim=2)
        after = KeysValues(window.k, window.v, tail_k, tail_v)
        mixed = _mix_parts(q, after, sight.skip)
        return nnf.linear(mixed, weights.out, weights.out_bias), after
    if window.tokens:
        k = torch.cat((window.k, window.tail_k, k), dim=2)
        v = torch.cat((window.v, window.tail_v, v), dim=2)
    mixed = mix_heads(q, k, v, causal=sight.causal, bias=sight.bias)
    k, v = _kept(k, sight.keep), _kept(v, sight.keep)
    after = KeysValues(k, v, k[:, :, :0], v[:, :, :0])
    return nnf.linear(mixed, weights.out, weights.out_bias), after


def _mix_parts(q_BH1K: Tensor, window: KeysValues, skip: int) -> Tensor:
    """Attention of one token over a window in two parts, without joining them: (B, 1, H*K)."""
    B, H, _, K = q_BH1K.shape
    G = window.k.shape[1]
    # The query heads of a group are the rows of one product with its keys.
    q = q_BH1K.reshape(B, G, H // G, K) * K**-0.5
    k, v = window.k[:, :, skip:], window.v[:, :, skip:]
    older = k.shape[2]
    scores = torch.cat((q @ k.mT, q @ window.tail_k.mT), dim=-1).softmax(dim=-1)
    mixed = scores[..., :older] @ v + scores[..., older:] @ window.tail_v
    return mixed.reshape(B, 1, H * K)


def _kept(keys_BGSK: Tensor, keep: int | Tensor) -> Tensor:
    if isinstance(keep, int):
        return _newest(keys_BGSK, keep)
    index = keep[:, None, :, None].expand(-1, keys_BGSK.shape[1], -1, keys_BGSK.shape[3])
    return keys_BGSK.gather(2, index)


def _newest(keys_BGSK: Tensor, count: int) -> Tensor:
    S = keys_BGSK.shape[2]
    newest = keys_BGSK[:, :, S - count :]
    # A view of a long text would hold all of it.
    return newest.clone() if 2 * count + TAIL_TOKENS < S else newest


@lru_cache(maxsize=8)
def _frequencies(config: ModelConfig) -> Tensor:
    return rotary_frequencies(config)


def _turns(config: ModelConfig, positions_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Rotary factors (B, T, 1, K). Positions of training are turned as in training, in float32;
    later ones in float64, because a stream has no last position and float32 would blur them."""
    frequencies = _frequencies(config)
    at = positions_BT[..., None, None]
    known = at < config.max_positions
    cos, sin = rotary_factors(at.float() * frequencies)
    if bool(known.all()):
        return cos, sin
    cos_far, sin_far = rotary_factors(at.double() * frequencies.double())
    return torch.where(known, cos.double(), cos_far), torch.where(known, sin.double(), sin_far)
