"""One forward pass over rows of different sessions: each at its own position, window and memory.

Rows are independent. Products with the shared weights run over all tokens of all rows at once;
everything private (attention, adapters) runs row by row or batched over rows, and nothing is summed
across rows. So a row computes what it would compute alone, up to the rounding of its products, and
a row of NaN changes no other.

Serving only: not differentiable. engine/runner.py decides which rows share a pass.

Shape suffixes: N tokens of all rows, B rows of one token, T tokens of one row, D model width,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hope_runtime.layers.kernels.native import NativeKernels
from hope_runtime.layers.kernels.torch_kernels import Kernels, TorchRowKernels
from hope_runtime.layers.served_lora import ServedAdapter
from hope_runtime.models.decoder.adapters import AdapterStack, NativeAdapters, RowAdapters
from hope_runtime.models.decoder.attention import RowAttention, RowInput
from hope_runtime.models.decoder.block import Attention
from hope_runtime.models.decoder.forward import FastMemory, finished_logits, run_blocks
from hope_runtime.models.decoder.native_attention import NativeRowAttention
from hope_runtime.models.decoder.weights import BaseModel

__all__ = ["AdapterStack", "RowInput", "forward_rows", "logits_of_rows", "stacked"]


@torch.no_grad()
def forward_rows(
    model: BaseModel,
    rows: Sequence[RowInput],
    stack: AdapterStack | NativeAdapters,
    fast_memory: FastMemory | None = None,
    *,
    kernels: Kernels | None = None,
) -> list[Tensor]:
    """Hidden states after the final norm, (T, D) for each row; the caches grow by T.

    Rows of one token come first, and `stack` holds their adapters in this order, made for the same
    `kernels`, which default to torch's; longer rows bring their own. `fast_memory` sees the tokens
    of all rows, (N, D), in the order of the rows. Raises WindowOverflowError, before anything was
    computed, when a cache or the model's positions do not hold a row's tokens.
    """
    lengths = [len(row.ids) for row in rows]
    B = sum(length == 1 for length in lengths)
    assert all(length == 1 for length in lengths[:B]), "rows of one token must come first"
    kernels = kernels or TorchRowKernels()
    attention: Attention
    if B and isinstance(kernels, NativeKernels) and NativeRowAttention.serves(rows):
        attention = NativeRowAttention(model, rows, B, kernels)
    else:
        attention = RowAttention(model, rows)
    adapters = RowAdapters(stack, B, [row.adapter for row in rows[B:]], lengths[B:])
    ids_N = torch.tensor([token for row in rows for token in row.ids], device=model.device)
    hidden_ND = run_blocks(
        model,
        ids_N,
        attention=attention,
        adapter=adapters,
        kernels=kernels,
        fast_memory=fast_memory,
    )
    for row in rows:
        row.cache.length += len(row.ids)
    return list(torch.split(hidden_ND, lengths))


def stacked(
    model: BaseModel, adapters: Sequence[ServedAdapter | None], kernels: Kernels
) -> AdapterStack | NativeAdapters:
    """The adapters of rows of one token, as the kernels want them."""
    if isinstance(kernels, NativeKernels):
        return NativeAdapters(kernels, adapters)
    return AdapterStack(model, adapters)


@torch.no_grad()
def logits_of_rows(model: BaseModel, hidden_BD: Tensor, kernels: Kernels | None = None) -> Tensor:
    """Logits of the next token of several rows, (B, D) -> (B, V)."""
    kernels = kernels or TorchRowKernels()
    return finished_logits(model.config, kernels.linear(hidden_BD, model.weights.lm_head))
