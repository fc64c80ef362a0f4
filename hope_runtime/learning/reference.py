"""Predictions of the frozen base model, to which rehearsal holds a level.

The divergence is KL(base || adapted) over the base's likeliest tokens and one bucket for all
others: of 49,152 scores the first few dozen carry what matters, and a session's rehearsal would
otherwise be held in gigabytes.

Shape suffixes: N predicted positions, K likeliest tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from hope_runtime.layers.lora import LoraAdapter
from hope_runtime.learning.packing import Example, Pack, pack
from hope_runtime.models.decoder.forward import forward, logits
from hope_runtime.models.decoder.weights import BaseModel

LIKELIEST = 32
_TINY = 1e-6


class Divergence(NamedTuple):
    """KL (N,) in nats, and the shares (N,) of all other tokens in what was compared."""

    nats_N: Tensor
    base_rest_N: Tensor
    adapted_rest_N: Tensor


def bucketed_divergence(base_NK: Tensor, log_base_NK: Tensor, adapted_NK: Tensor) -> Divergence:
    """KL(base || adapted) over some tokens and one bucket for all others.

    Takes the base's probabilities of these tokens, their logarithms, and the adapted model's
    log-probabilities, all (N, K). Differentiable.
    """
    base_rest_N = (1 - base_NK.sum(1)).clamp(min=_TINY)
    adapted_rest_N = (1 - adapted_NK.exp().sum(1)).clamp(min=_TINY)
    rest_N = base_rest_N * (base_rest_N.log() - adapted_rest_N.log())
    nats_N = (base_NK * (log_base_NK - adapted_NK)).sum(1) + rest_N
    return Divergence(nats_N, base_rest_N, adapted_rest_N)


@dataclass(frozen=True, slots=True)
class Reference:
    """The base's log-probabilities (N, K) of its likeliest tokens, and their ids (N, K)."""

    log_probabilities_NK: Tensor
    ids_NK: Tensor

    def divergence(self, logits_NV: Tensor) -> Tensor:
        """KL(base || adapted) in nats, (N,), from the adapted model's scores; differentiable."""
        adapted_NK = logits_NV.log_softmax(-1).gather(1, self.ids_NK)
        base_NK = self.log_probabilities_NK
        return bucketed_divergence(base_NK.exp(), base_NK, adapted_NK).nats_N


def scores(model: BaseModel, packed: Pack, adapter: LoraAdapter | None = None) -> Tensor:
    """Scores of a memory, or of the frozen base, at every predictor of a pack, float32 (N, V)."""
    hidden_BTD = forward(
        model,
        packed.ids_BT.to(model.device),
        positions_BT=packed.positions_BT.to(model.device),
        mask_BTS=packed.mask_BTT.to(model.device),
        adapter=adapter,
    )
    hidden_ND = hidden_BTD.flatten(0, 1)[packed.predictors_N.to(model.device)]
    return logits(model, hidden_ND[None])[0].float()


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """A text to rehearse and what the base predicts in it."""

    example: Example
    reference: Reference


@torch.no_grad()
def references(
    model: BaseModel,
    examples: Sequence[Example],
    *,
    row_tokens: int,
    adapter: LoraAdapter | None = None,
) -> list[Reference]:
    """The view of each example's targets by the base, or by a memory whose `terms`, in the model's
    dtype, are given; in the examples' order."""
    packed = pack(examples, row_tokens=row_tokens)
    log_probabilities, ids = scores(model, packed, adapter).log_softmax(-1).topk(LIKELIEST, dim=-1)
    found = []
    for owner in range(len(examples)):
        mine_N = packed.owners_N == owner
        found.append(Reference(log_probabilities[mine_N], ids[mine_N]))
    return found


@torch.no_grad()
def up_to_surprise(
    model: BaseModel,
    examples: Sequence[Example],
    *,
    row_tokens: int,
    adapter: LoraAdapter | None = None,
) -> list[Rehearsed]:
    """Each example cut behind its most surprising target, with the base's view of what is left, or
    that of a memory with `terms`.

    In a taught statement that is told of a stranger, that token is where the taught value begins.
    What follows it is no secret: held to the base there, a level could not spell the value.
    """
    packed = pack(examples, row_tokens=row_tokens)
    log_NV = scores(model, packed, adapter).log_softmax(-1)
    nats_N = -log_NV.gather(1, packed.targets_N.to(log_NV.device)[:, None])[:, 0]
    log_probabilities, ids = log_NV.topk(LIKELIEST, dim=-1)
    found = []
    for owner, example in enumerate(examples):
        mine = (packed.owners_N == owner).nonzero()[:, 0]
        if not len(mine):
            continue
        kept = mine[: int(nats_N[mine].argmax()) + 1]
        places = [index for index, wanted in enumerate(example.targets) if wanted]
        # A first token without a predecessor is no target, whatever its flag says.
        end = places[len(kept) - 1 + len(places) - len(mine)] + 1
        short = Example(example.ids[:end], example.targets[:end], example.prefix)
        found.append(Rehearsed(short, Reference(log_probabilities[kept], ids[kept])))
    return found
