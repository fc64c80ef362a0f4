"""Draws of the next tokens of many rows at once, on the device that has their logits.

The same draw as Sampler's, of the same noise: a seed means the same. What crosses to the device is
the noise of the likeliest ranks; what comes back are token ids.

Shape suffixes: B rows, V vocabulary, R ranks that noise is given for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hope_runtime.host_copies import sent

# Ranks among which a device draws; a row in which a later one may win is drawn on the host.
RANKS = 1024
UNSURE = -2


@dataclass(frozen=True, slots=True)
class Draw:
    """Options and noise of one row's draw: as in Sampling, with `top_k` at most the vocabulary, and
    the noise of the first ranks, (R,), with a lower bound of all others."""

    temperature: float
    top_p: float
    min_p: float
    top_k: int
    noise_R: Tensor
    least_other: float


def draw(logits_BV: Tensor, draws: Sequence[Draw]) -> Tensor:
    """The tokens drawn, int64 (B,), on the logits' device; UNSURE where a rank without noise may
    be the one."""
    device = logits_BV.device
    options = [[d.temperature, d.top_p, d.min_p, d.top_k, d.least_other] for d in draws]
    rows = torch.cat([torch.tensor(options), torch.stack([d.noise_R for d in draws])], dim=1)
    rows = sent(rows, device)
    temperature, top_p, min_p, top_k, least = rows[:, :5, None].unbind(1)
    noise_BR = rows[:, 5:]
    logits_BV = logits_BV.float()
    # Differences to the best first: they may overflow to -inf, which softmax understands.
    differences_BV = logits_BV - logits_BV.amax(-1, keepdim=True)
    weights_BV, order_BV = (
        (differences_BV / temperature).softmax(-1).sort(descending=True, stable=True)
    )
    R = noise_BR.shape[1]
    weights_BR = weights_BV[:, :R]
    keep_BR = weights_BR >= min_p * weights_BR[:, :1]
    # A token stays if the likelier ones together have not reached top_p yet.
    keep_BR &= weights_BR.cumsum(-1) - weights_BR < top_p
    keep_BR &= torch.arange(R, device=device) < top_k
    best_B, place_B = (weights_BR * keep_BR / noise_BR).max(-1)
    tokens_B = order_BV.gather(1, place_B[:, None])[:, 0]
    if weights_BV.shape[1] == R:
        return tokens_B
    # Where a likely token was dropped, so were all behind it.
    unsure_B = keep_BR[:, -1] & (best_B <= weights_BV[:, R] / least[:, 0])
    return tokens_B.masked_fill(unsure_B, UNSURE)
