"""A training pass that spends little on anything but the products: about 1.6 times as fast as the
packed one (learning/packing.py) on batches of short examples.

Linear layers run over the tokens without padding, attention in small padded blocks, one for each
example. The prefix that chat examples share is read once, without gradient. The head and the loss
are one function with a gradient of its own, which never keeps scores over the vocabulary.

Shape suffixes: N tokens of all examples, E examples, T tokens of the longest, P tokens of the
prefix, M targets, K likeliest tokens of a reference, D model width, V vocabulary, H query heads,
G key/value heads, W head width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor

from hope_runtime.layers.lora import LoraAdapter
from hope_runtime.layers.norm import rms_norm
from hope_runtime.learning.packing import Example
from hope_runtime.learning.reference import LIKELIEST, Reference, bucketed_divergence
from hope_runtime.models.decoder.adapters import adapter_strategy
from hope_runtime.models.decoder.block import Adapter, Attention, decoder_block
from hope_runtime.models.decoder.weights import BaseModel


@dataclass(frozen=True, slots=True)
class Item:
    """An example to learn or, with a reference, to be held to it; `weight` is that of one of its
    targets in the loss. `unlikely` targets are to be unlearnt."""

    example: Example
    weight: float
    reference: Reference | None = None
    unlikely: bool = False

    @property
    def targets(self) -> int:
        """Targets that are predicted."""
        return sum(self.example.targets[1:])

    def weighing(self, weight: float) -> Item:
        """The same with another weight."""
        return replace(self, weight=weight)


class Batch:
    """Examples as one pass reads them. All those with a prefix have the same one."""

    def __init__(self, items: Sequence[Item], device: torch.device | str) -> None:
        examples = [item.example for item in items]
        lengths = [len(example.ids) for example in examples]
        prefixes = {example.prefix for example in examples if example.prefix}
        assert len(prefixes) <= 1, "examples of one batch share their prefix"
        self.prefix: tuple[int, ...] = next(iter(prefixes), ())
        self.examples, self.longest = len(examples), max(lengths)
        ids: list[int] = []
        positions: list[int] = []
        places: list[int] = []
        predictors, targets, owners, weights = [], [], [], []
        for row, item in enumerate(items):
            example, at, first = item.example, len(ids), len(item.example.prefix)
            ids += example.ids
            positions += range(first, first + len(example.ids))
            places += range(row * self.longest, row * self.longest + len(example.ids))
            for offset, (token, wanted) in enumerate(
                zip(example.ids, example.targets, strict=True)
            ):
                # Without a predecessor, or one that has no gradient, nothing is predicted.
                if wanted and offset:
                    predictors.append(at + offset - 1)
                    targets.append(token)
                    owners.append(row)
                    weights.append(item.weight)
        self.tokens = len(ids)

        def long(values: Sequence[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.long, device=device)

        self.ids_N, self.positions_N, self.places_N = long(ids), long(positions), long(places)
        self.predictors_M, self.targets_M, self.owners_M = map(long, (predictors, targets, owners))
        self.weights_M = torch.tensor(weights, device=device)
        self.is_full = len(ids) == self.examples * self.longest
        self._mask(lengths, [bool(example.prefix) for example in examples], device)
        self._references(items, device)

    def _mask(self, lengths: list[int], prefixed: list[bool], device: torch.device | str) -> None:
        at_T = torch.arange(self.longest, device=device)
        lengths_E = torch.tensor(lengths, device=device)
        causal_TT = at_T[:, None] >= at_T[None]
        own_ETT = causal_TT[None] & (at_T[None, None] < lengths_E[:, None, None])
        # A padded place sees itself: attention to nothing has no value.
        own_ETT = own_ETT | torch.eye(self.longest, dtype=torch.bool, device=device)[None]
        prefix_E = torch.tensor(prefixed, device=device)
        prefix_ETP = prefix_E[:, None, None].expand(-1, self.longest, len(self.prefix))
        self.mask_ETS = torch.cat([prefix_ETP, own_ETT], dim=-1)

    def _references(self, items: Sequence[Item], device: torch.device | str) -> None:
        count = len(self.targets_M)
        self.soft_M = torch.zeros(count, dtype=torch.bool, device=device)
        self.unlikely_M = torch.zeros(count, dtype=torch.bool, device=device)
        self.likely_MK = torch.zeros(count, LIKELIEST, dtype=torch.long, device=device)
        self.shares_MK = torch.zeros(count, LIKELIEST, device=device)
        for row, item in enumerate(items):
            mine = (self.owners_M == row).nonzero()[:, 0]
            if item.unlikely:
                self.unlikely_M[mine] = True
            if item.reference is None or not len(mine):
                continue
            self.soft_M[mine] = True
            # A first token without a predecessor has a reference in a packed view, and none here.
            self.likely_MK[mine] = item.reference.ids_NK[-len(mine) :]
            self.shares_MK[mine] = item.reference.log_probabilities_NK[-len(mine) :].exp()


class _HeadLoss(torch.autograd.Function):
    """Loss of each target from the final hidden states, (M, D) -> (M,), and the weighted sum.

    The negative log-likelihood of a token, or KL(reference || model) over the reference's
    likeliest tokens and one bucket for all others (learning/reference.py), or what it costs that a
    token is likely.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_MD: Tensor, head_VD: Tensor, batch: Batch
    ) -> tuple[Tensor, Tensor]:
        log_MV = nnf.linear(hidden_MD, head_VD).float()
        log_MV -= log_MV.logsumexp(-1, keepdim=True)
        hard_M = (~batch.soft_M).nonzero()[:, 0]
        soft_M = batch.soft_M.nonzero()[:, 0]
        losses_M = log_MV.new_zeros(len(log_MV))
        losses_M[hard_M] = -log_MV[hard_M, batch.targets_M[hard_M]]
        # Of what is to be unlearnt: -log(1 - p), and its gradient is that of p with this factor.
        chance_M = (-losses_M).exp().clamp(max=1 - 1e-4)
        losses_M = torch.where(batch.unlikely_M, -torch.log1p(-chance_M), losses_M)
        likely_SK, shares_SK = batch.likely_MK[soft_M], batch.shares_MK[soft_M]
        mine_SK = log_MV[soft_M[:, None], likely_SK]
        found = bucketed_divergence(shares_SK, shares_SK.clamp(min=1e-12).log(), mine_SK)
        losses_M[soft_M] = found.nats_N
        if ctx.needs_input_grad[0]:
            gradient_MV = log_MV.exp_()
            gradient_MV[hard_M, batch.targets_M[hard_M]] -= 1
            gradient_MV[soft_M] *= (1 - found.base_rest_N / found.adapted_rest_N)[:, None]
            gradient_MV[soft_M[:, None], likely_SK] = mine_SK.exp() - shares_SK
            factor_M = torch.where(batch.unlikely_M, -chance_M / (1 - chance_M), 1.0)
            gradient_MV *= (batch.weights_M * factor_M)[:, None]
            ctx.save_for_backward(gradient_MV.to(head_VD.dtype) @ head_VD)
        ctx.mark_non_differentiable(losses_M)
        return (losses_M * batch.weights_M).sum(), losses_M

    @staticmethod
    def backward(ctx: Any, total: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        (gradient_MD,) = ctx.saved_tensors
        return gradient_MD * total.to(gradient_MD.dtype), None, None


def losses(model: BaseModel, batch: Batch, adapter: LoraAdapter | None) -> tuple[Tensor, Tensor]:
    """The weighted loss of a batch, differentiable in the adapter, and each target's, (M,), which
    is not. `adapter` is in the model's dtype; None is the frozen base."""
    hidden_ND = _hidden(model, batch, adapter)
    apply: Callable[[Tensor, Tensor, Batch], tuple[Tensor, Tensor]] = _HeadLoss.apply
    return apply(hidden_ND[batch.predictors_M], model.weights.lm_head, batch)


def _hidden(model: BaseModel, batch: Batch, adapter: LoraAdapter | None) -> Tensor:
    """Hidden states of all tokens after the final norm, (N, D)."""
    strategy = adapter_strategy(adapter)
    prefix = _read_prefix(model, batch.prefix, strategy) if batch.prefix else None
    x_ND = _run(model, batch.ids_N, _BlockAttention(model, batch, prefix), strategy)
    return rms_norm(x_ND, model.weights.final_norm, model.config.norm_eps)


def _run(model: BaseModel, ids_N: Tensor, attention: Attention, adapter: Adapter) -> Tensor:
    """All blocks over the tokens, (N,) -> (N, D)."""
    x_ND = nnf.embedding(ids_N, model.weights.embedding)
    for layer, weights in enumerate(model.weights.layers):
        x_ND = decoder_block(
            x_ND,
            config=model.config,
            weights=weights,
            layer=layer,
            attention=attention,
            adapter=adapter,
        )
    return x_ND


class _BlockAttention:
    """Attention in small padded blocks: each example sees the prefix, if any, and itself."""

    def __init__(
        self, model: BaseModel, batch: Batch, prefix: list[tuple[Tensor, Tensor]] | None
    ) -> None:
        self._model, self._batch, self._prefix = model, batch, prefix
        bias_ETS = torch.zeros(batch.mask_ETS.shape, dtype=model.dtype, device=model.device)
        self._bias_ETS = bias_ETS.masked_fill_(~batch.mask_ETS, float("-inf"))[:, None, None]

    def mix(self, layer: int, qkv: Tensor) -> Tensor:
        q_NHW, k_NGW, v_NGW = _heads(self._model, qkv, self._batch.positions_N)
        prefix = None if self._prefix is None else self._prefix[layer]
        return _attend(self._batch, q_NHW, k_NGW, v_NGW, prefix, self._bias_ETS)


class _PrefixAttention:
    """Causal attention of the prefix alone; keeps keys and values, (P, G, W) each, by layer."""

    def __init__(self, model: BaseModel, length: int) -> None:
        self._model = model
        self._positions_P = torch.arange(length, device=model.device)
        self.kept: list[tuple[Tensor, Tensor]] = []

    def mix(self, layer: int, qkv: Tensor) -> Tensor:
        q, k, v = _heads(self._model, qkv, self._positions_P)
        self.kept.append((k, v))
        mixed = nnf.scaled_dot_product_attention(
            q.transpose(0, 1)[None],
            k.transpose(0, 1)[None],
            v.transpose(0, 1)[None],
            is_causal=True,
            enable_gqa=True,
        )
        mixed_PX: Tensor = mixed[0].transpose(0, 1).reshape(len(self._positions_P), -1)
        return mixed_PX


def _heads(model: BaseModel, qkv: Tensor, positions_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys turned by their positions, and values: (N, H, W), (N, G, W), (N, G, W)."""
    config = model.config
    heads, shared = config.n_heads, config.n_kv_heads
    qkv = qkv.view(-1, heads + 2 * shared, config.head_dim)
    raw = qkv[:, : heads + shared]
    cos_NW, sin_NW = model.rotary.cos_PK[positions_N], model.rotary.sin_PK[positions_N]
    turned = torch.addcmul(
        raw * cos_NW[:, None], raw.roll(config.head_dim // 2, dims=-1), sin_NW[:, None]
    )
    return turned[:, :heads], turned[:, heads:], qkv[:, heads + shared :]


def _attend(
    batch: Batch,
    q_NHW: Tensor,
    k_NGW: Tensor,
    v_NGW: Tensor,
    prefix: tuple[Tensor, Tensor] | None,
    bias_ETS: Tensor,
) -> Tensor:
    """(N, H * W); each example sees the prefix, where it has one, and itself."""
    E, T = batch.examples, batch.longest
    heads, width, shared = q_NHW.shape[1], q_NHW.shape[2], k_NGW.shape[1]

    def padded(x_NXW: Tensor) -> Tensor:
        count = x_NXW.shape[1]
        if not batch.is_full:
            empty = x_NXW.new_zeros(E * T, count, width)
            x_NXW = empty.index_copy(0, batch.places_N, x_NXW)
        return x_NXW.reshape(E, T, count, width).transpose(1, 2)

    q_EHTW, k_EGSW, v_EGSW = padded(q_NHW), padded(k_NGW), padded(v_NGW)
    if prefix is not None:
        k_EGSW, v_EGSW = (
            torch.cat([before.transpose(0, 1)[None].expand(E, -1, -1, -1), own], dim=2)
            for before, own in zip(prefix, (k_EGSW, v_EGSW), strict=True)
        )
    S, each = k_EGSW.shape[2], heads // shared
    scores = (q_EHTW.reshape(E, shared, each * T, width) @ k_EGSW.mT) * width**-0.5
    shares = (scores.view(E, shared, each, T, S) + bias_ETS).softmax(-1)
    mixed = shares.view(E, shared, each * T, S) @ v_EGSW
    mixed = mixed.view(E, heads, T, width).transpose(1, 2).reshape(E * T, heads * width)
    mixed_NX: Tensor = mixed if batch.is_full else mixed.index_select(0, batch.places_N)
    return mixed_NX


@torch.no_grad()
def _read_prefix(
    model: BaseModel, prefix: tuple[int, ...], adapter: Adapter
) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of the prefix at every layer, (P, G, W) each."""
    attention = _PrefixAttention(model, len(prefix))
    _run(model, torch.tensor(prefix, device=model.device), attention, adapter)
    return attention.kept
