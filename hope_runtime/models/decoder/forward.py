"""The forward pass: a pure function of (base weights, private terms, window) -> hidden states.

Knows the order of the layers and how a pass is masked and positioned. Leaves one layer's work to
block.py, sampling to engine/, and learning to learning.py, which trains through this very pass.

Shape suffixes: B rows, T new tokens, S keys (cached and new), D model width, V vocabulary.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as nnf
from torch import Tensor

from hope_runtime.errors import WindowOverflowError
from hope_runtime.layers.attention import AttentionPlan
from hope_runtime.layers.kv_cache import KVCache
from hope_runtime.layers.lora import AdapterTensors, split_layers
from hope_runtime.layers.norm import rms_norm
from hope_runtime.models.decoder.block import OnMlp, block
from hope_runtime.models.decoder.weights import BaseModel


class FastMemory(Protocol):
    """What stands beside the blocks: it sees the residual stream and may add to it."""

    def at(self, layer: int, x_BTD: Tensor) -> Tensor:
        """What goes into block `layer`, given what would; n_layers is behind the last block."""
        ...


def forward(
    model: BaseModel,
    ids_BT: Tensor,
    *,
    positions_BT: Tensor | None = None,
    cache: KVCache | None = None,
    adapter: AdapterTensors | None = None,
    mask_BTS: Tensor | None = None,
    fast_memory: FastMemory | None = None,
    on_mlp: OnMlp | None = None,
) -> Tensor:
    """Hidden states after the final norm, (B, T, D), in the dtype of the weights.

    `ids_BT` are token ids, int64, on the device of the weights.

    Without a mask, token t sees the S - T cached tokens and the new ones up to itself. A boolean
    `mask_BTS` (True where a token may look, at least once a row) replaces that rule: block-diagonal
    for packs of separate texts, or hiding the padding of rows of unequal length. `positions_BT`
    (int64) default to the tokens' place in the window; packs and padded rows give their own.

    With a cache, the new keys and values are appended and `cache.length` grows by T; not
    differentiable then. Without one, differentiable with respect to the terms and to what a branch
    adds. With terms and branch None, the plain base model bit for bit. `on_mlp` is shown what the
    matrices of every MLP read.

    Raises WindowOverflowError when the cache or the known positions do not hold the tokens.
    """
    config, weights = model.config, model.weights
    T = ids_BT.shape[1]
    start = 0 if cache is None else cache.length
    if cache is not None and start + T > cache.capacity:
        raise WindowOverflowError(
            f"{start + T} tokens exceed the cache capacity of {cache.capacity}"
        )
    cos, sin = model.rotary.run(start, T) if positions_BT is None else model.rotary.at(positions_BT)
    bias = _score_bias(mask_BTS, start, T, weights.dtype, weights.device)
    plan = AttentionPlan(cos, sin, start, causal=bias is None and T > 1, bias=bias)
    layer_terms = None if adapter is None else split_layers(adapter)
    x_BTD = nnf.embedding(ids_BT, weights.embedding)
    for index, layer in enumerate(weights.layers):
        if fast_memory is not None:
            x_BTD = fast_memory.at(index, x_BTD)
        x_BTD = block(
            x_BTD,
            config=config,
            weights=layer,
            adapter=None if layer_terms is None else layer_terms[index],
            plan=plan,
            cache=cache,
            layer=index,
            on_mlp=on_mlp,
        )
    if fast_memory is not None:
        x_BTD = fast_memory.at(config.n_layers, x_BTD)
    if cache is not None:
        cache.length = start + T
    return rms_norm(x_BTD, weights.final_norm, config.norm_eps)


def logits(model: BaseModel, hidden_BTD: Tensor) -> Tensor:
    """Scores of the next token, (B, T, D) -> (B, T, V), in the dtype of the weights.

    Give it only the positions whose scores are needed: this is a fifth of a small model's work.
    """
    return nnf.linear(hidden_BTD, model.weights.lm_head)


def _score_bias(
    mask_BTS: Tensor | None, start: int, T: int, dtype: torch.dtype, device: torch.device
) -> Tensor | None:
    """What attention adds to the scores, or None where a plain causal kernel does: (.., T, S).

    Made here once, because the attention kernel would turn a boolean mask into this at each layer.
    """
    if mask_BTS is not None:
        allowed = mask_BTS.unsqueeze(1)
    elif T == 1 or start == 0:
        return None
    else:
        allowed = torch.ones(T, start + T, dtype=torch.bool, device=device).tril(start)
    return torch.zeros(allowed.shape, dtype=dtype, device=device).masked_fill_(
        ~allowed, float("-inf")
    )
