"""The head and the loss of a training pass as one function with a gradient of its own.

Scores over the vocabulary are never kept: at 49,152 tokens they would outweigh everything else.

Shape suffixes: M targets, K likeliest tokens of a reference, D model width, V vocabulary.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from hope_runtime.learning.reference import bucketed_divergence
from hope_runtime.models.decoder.forward import logits
from hope_runtime.models.decoder.weights import BaseModel


class Targets(Protocol):
    """Targets of a batch: their token ids and weights, which of them have a reference (`soft_M`)
    and which are to be unlearnt, and the references."""

    targets_M: Tensor
    weights_M: Tensor
    soft_M: Tensor
    unlikely_M: Tensor
    likely_MK: Tensor
    shares_MK: Tensor


class HeadLoss(torch.autograd.Function):
    """Loss of each target from the final hidden states, (M, D) -> (M,), and the weighted sum.

    The negative log-likelihood of a token, or KL(reference || model) over the reference's
    likeliest tokens and one bucket for all others (learning/reference.py), or what it costs that a
    token is likely.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_MD: Tensor, model: BaseModel, batch: Targets
    ) -> tuple[Tensor, Tensor]:
        config, head_VD = model.config, model.weights.lm_head
        log_MV = logits(model, hidden_MD).float()
        slope_MV = None
        if config.logits_softcap and ctx.needs_input_grad[0]:
            # Of the cap: the derivative of c tanh(z / c) is 1 - tanh(z / c)^2.
            slope_MV = 1 - (log_MV / config.logits_softcap).square()
        log_MV -= log_MV.logsumexp(-1, keepdim=True)
        # Both kinds of loss for every target, so that no shape depends on which are held.
        soft_M, own_M1 = batch.soft_M, batch.targets_M[:, None]
        losses_M = -log_MV.gather(1, own_M1)[:, 0]
        # Of what is to be unlearnt: -log(1 - p), and its gradient is that of p with this factor.
        chance_M = (-losses_M).exp().clamp(max=1 - 1e-4)
        losses_M = torch.where(batch.unlikely_M, -torch.log1p(-chance_M), losses_M)
        likely_MK, shares_MK = batch.likely_MK, batch.shares_MK
        mine_MK = log_MV.gather(1, likely_MK)
        found = bucketed_divergence(shares_MK, shares_MK.clamp(min=1e-12).log(), mine_MK)
        losses_M = torch.where(soft_M, found.nats_N, losses_M)
        if ctx.needs_input_grad[0]:
            # One factor for each row and few places beside it: passes over the scores cost most.
            factor_M = torch.where(batch.unlikely_M, -chance_M / (1 - chance_M), 1.0)
            factor_M *= batch.weights_M
            held_M = factor_M * (1 - found.base_rest_N / found.adapted_rest_N)
            factor_M = torch.where(soft_M, held_M, factor_M)
            gradient_MV = log_MV.exp_().mul_(factor_M[:, None])
            likely_gradient_MK = (mine_MK.exp() - shares_MK) * batch.weights_M[:, None]
            as_it_is_MK = gradient_MV.gather(1, likely_MK)
            gradient_MV.scatter_(
                1, likely_MK, torch.where(soft_M[:, None], likely_gradient_MK, as_it_is_MK)
            )
            gradient_MV.scatter_add_(1, own_M1, torch.where(soft_M, 0.0, -factor_M)[:, None])
            if slope_MV is not None:
                gradient_MV *= slope_MV
            if config.logits_divisor != 1.0:
                gradient_MV /= config.logits_divisor
            ctx.save_for_backward(gradient_MV.to(head_VD.dtype) @ head_VD)
        ctx.mark_non_differentiable(losses_M)
        return (losses_M * batch.weights_M).sum(), losses_M

    @staticmethod
    def backward(ctx: Any, total: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        (gradient_MD,) = ctx.saved_tensors
        return gradient_MD * total.to(gradient_MD.dtype), None, None
