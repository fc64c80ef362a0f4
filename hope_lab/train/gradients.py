"""One batch through a native model: scores, the loss, and its gradient through the memories.

The text is read in pieces, so that backpropagation through time can end at a boundary
(truncation) or recompute a piece's activations instead of keeping them. Knows no optimiser.

Shape suffixes: B rows, T tokens, D model width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hope_lab.train.config import TrainConfig
from hope_lab.train.tasks.base import Batch, Readout, Task, summed_loss
from hope_runtime.layers.tree import map_tensors
from hope_runtime.models.hope.config import HopeConfig
from hope_runtime.models.hope.model import Context, fresh_context, hidden_states
from hope_runtime.models.hope.weights import HopeWeights


def scores_of(
    config: HopeConfig,
    weights: HopeWeights,
    task: Task,
    readout: Readout,
    batch: Batch,
    how: TrainConfig,
) -> Tensor:
    """The task's scores (B, S, V). Differentiable; truncated where `how` says."""
    with torch.autocast(weights.device.type, dtype=torch.bfloat16, enabled=how.autocast):
        hidden_BTD = _read(config, weights, batch.ids_BT, how)
        return task.scores(hidden_BTD, weights, readout)


def mean_loss(scores: Tensor, batch: Batch, counted: int) -> Tensor:
    """The loss of these rows as their share of a batch in which `counted` places count."""
    return summed_loss(scores, batch) / counted


def _read(config: HopeConfig, weights: HopeWeights, ids_BT: Tensor, how: TrainConfig) -> Tensor:
    B, T = ids_BT.shape
    cut = math.gcd(how.truncate_tokens, how.recompute_tokens) or T
    context = fresh_context(config, weights, B)
    pieces = []
    for start in range(0, T, cut):
        if start and how.truncate_tokens and start % how.truncate_tokens == 0:
            context = map_tensors(Tensor.detach, context)
        ids = ids_BT[:, start : start + cut]
        if how.recompute_tokens and torch.is_grad_enabled():
            hidden, context = _recomputed(config, weights, ids, context)
        else:
            hidden, context = hidden_states(config, weights, ids, context)
        pieces.append(hidden)
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)


def _recomputed(
    config: HopeConfig, weights: HopeWeights, ids_BT: Tensor, context: Context
) -> tuple[Tensor, Context]:
    result: tuple[Tensor, Context] = checkpoint(
        hidden_states, config, weights, ids_BT, context, use_reentrant=False
    )
    return result
