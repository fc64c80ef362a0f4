"""A training pass that spends little on anything but the products: about 1.6 times as fast as the
packed one (learning/packing.py) on batches of short examples.

Begins above the layers that a consolidation leaves as they are (lower_layers.py), runs over tokens
without padding (blocks.py), and never keeps scores over the vocabulary (head_loss.py).

Shape suffixes: N tokens of all examples, M targets, K likeliest tokens of a reference, D model
width, F MLP width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hope_runtime.layers.lora import LoraAdapter
from hope_runtime.layers.norm import rms_norm
from hope_runtime.learning.recipes.specific.batch import Batch, BatchTensors
from hope_runtime.learning.recipes.specific.blocks import BlockAttention, read_prefix, run_blocks
from hope_runtime.learning.recipes.specific.head_loss import HeadLoss
from hope_runtime.learning.recipes.specific.lower_layers import Above, LowerLayers
from hope_runtime.learning.reference import LIKELIEST, Reference
from hope_runtime.models.decoder.adapters import adapter_strategy
from hope_runtime.models.decoder.block import OnMlp
from hope_runtime.models.decoder.forward import logits
from hope_runtime.models.decoder.weights import BaseModel


def losses(model: BaseModel, above: Above, adapter: LoraAdapter | None) -> tuple[Tensor, Tensor]:
    """The weighted loss of a batch, differentiable in the adapter's upper layers, and each
    target's, (M,), which is not. `adapter` is in the model's dtype; None is the frozen base.

    Neither reads a value back nor makes a shape depend on one, so it can be captured as a graph.
    """
    hidden_MD = _hidden(model, above, adapter).index_select(0, above.batch.predictors_M)
    apply: Callable[[Tensor, BaseModel, BatchTensors], tuple[Tensor, Tensor]] = HeadLoss.apply
    return apply(hidden_MD, model, above.batch)


@torch.no_grad()
def views(
    model: BaseModel,
    batch: Batch,
    adapter: LoraAdapter | None,
    lower: LowerLayers,
    on_mlp: OnMlp | None = None,
) -> list[Reference]:
    """Predictions of a memory at the targets of each example of a batch. `on_mlp` sees the inputs
    of the upper layers' MLPs, (N, D) and (N, F). `lower` has read the batch's examples."""
    hidden_ND = _hidden(model, lower.above(batch), adapter, on_mlp)
    scores_MV = logits(model, hidden_ND[batch.tensors.predictors_M]).float()
    log_MK, ids_MK = scores_MV.log_softmax(-1).topk(LIKELIEST, dim=-1)
    parts = (torch.split(each_MK, batch.counts) for each_MK in (log_MK, ids_MK))
    return [Reference(log_NK, ids_NK) for log_NK, ids_NK in zip(*parts, strict=True)]


def _hidden(
    model: BaseModel, above: Above, adapter: LoraAdapter | None, on_mlp: OnMlp | None = None
) -> Tensor:
    """Hidden states of all tokens after the final norm, (N, D)."""
    strategy, layers = adapter_strategy(adapter), range(above.first, model.config.n_layers)
    prefix = None
    if above.prefix_PD is not None:
        _, prefix = read_prefix(model, above.prefix_PD, strategy, layers)
    attention = BlockAttention(model, above.batch, prefix)
    x_ND = run_blocks(model, above.x_ND, attention, strategy, layers, on_mlp)
    return rms_norm(x_ND, model.weights.final_norm, model.config.norm_eps)
